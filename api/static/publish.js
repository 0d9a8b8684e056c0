// Publishing from the page, and showing when a published item can be found.

import { base64Of, FOR_PUBLISHING, picturesOf } from "./picture.js";

const SHOWN_MAX = 5;
const SEARCHABLE_WITHIN_S = 30;

/** Connect the caption form, the drop target and the file button. */
export function startPublishing(client, { form, caption, drop, choose, file, log }) {
  const journal = new Journal(log);

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const text = caption.value.trim();
    if (!text) return caption.focus();
    caption.value = "";
    journal.tell(text, () => publish(client, { target: "captions", id: newId(), text }));
  });

  const take = async (files) => {
    // One after the other: a folder of photos must not be in memory as a whole.
    for (const picture of files) {
      await journal.tell(picture.name, () => publishPicture(client, picture));
    }
  };
  choose.addEventListener("click", () => file.click());
  file.addEventListener("change", () => {
    const files = [...file.files];
    file.value = ""; // so that choosing the same file again is a change
    take(files);
  });
  onDrop(drop, (transfer) => {
    const pictures = picturesOf(transfer);
    if (pictures.length) take(pictures);
    else journal.refuse("What was dropped is no picture file.");
  });
}

/** Call `take(dataTransfer)` on a drop, and show that `area` takes drops. */
export function onDrop(area, take) {
  area.addEventListener("dragover", (event) => {
    event.preventDefault();
    area.classList.add("over");
  });
  area.addEventListener("dragleave", (event) => {
    if (!area.contains(event.relatedTarget)) area.classList.remove("over");
  });
  area.addEventListener("drop", (event) => {
    event.preventDefault();
    area.classList.remove("over");
    take(event.dataTransfer);
  });
}

async function publishPicture(client, file) {
  const image = await base64Of(file, FOR_PUBLISHING);
  const name = file.name.replace(/\.[^.]*$/, "");
  return publish(client, { target: "images", id: newId(), image, metadata: name ? { name } : {} });
}

/** Publish one item, and return the milliseconds until a search can find it. */
async function publish(client, item) {
  const started = performance.now();
  const token = await client.publish(item);
  // The answer does not matter, so any query will do. An equal one each time stays in the cache.
  const query = { text: "a", k: 1, target: item.target };
  await client.search({ ...query, wait_for: token, timeout_s: SEARCHABLE_WITHIN_S });
  return performance.now() - started;
}

// Browsers have crypto.randomUUID on https and localhost only.
function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(8));
  return `page/${Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("")}`;
}

/** The items that were published here last, each with its state. */
class Journal {
  #log;

  constructor(log) {
    this.#log = log;
  }

  async tell(name, publishing) {
    const outcome = this.#line(name);
    outcome.set("busy", "publishing …");
    try {
      outcome.set("done", `searchable after ${Math.round(await publishing())} ms`);
    } catch (error) {
      outcome.set("failed", error.message);
    }
  }

  refuse(why) {
    this.#line("").set("failed", why);
  }

  #line(name) {
    const line = document.createElement("li");
    const what = document.createElement("span");
    what.className = "what";
    what.textContent = name;
    const outcome = document.createElement("span");
    outcome.className = "outcome";
    line.append(what, outcome);
    this.#log.prepend(line);
    while (this.#log.childElementCount > SHOWN_MAX) this.#log.lastElementChild.remove();
    return {
      set(state, text) {
        line.dataset.state = state;
        outcome.textContent = text;
      },
    };
  }
}

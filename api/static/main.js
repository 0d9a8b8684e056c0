// The page's parts, put together: questions go to the live list, and its changes to the view.

import { Client } from "./client/client.js";
import { base64Of, FOR_QUERY, picturesOf } from "./picture.js";
import { onDrop, startPublishing } from "./publish.js";
import { fromLocation, toLocation, toQuery } from "./question.js";
import { showConnection, startStrip } from "./strip.js";
import { titleOf, View } from "./view.js";

const TYPING_PAUSE_MS = 250;
// Screen readers get a summary every few seconds, not every change.
const ANNOUNCE_EVERY_MS = 5_000;

const $ = (id) => document.getElementById(id);
const targets = [...document.querySelectorAll('input[name="target"]')];

let question = fromLocation(location.search);
/** The list as last received. */
let hits = [];
/** The question has no answer yet. */
let fresh = false;
let paused = false;
/** The server refused or ended the query, so that the drawn list is not current any longer. */
let ended = false;
let frame = 0;

const client = new Client();
const view = new View({ list: $("results"), leaving: $("leaving"), onMore: moreLike, pictureUrl });
const connection = client.connect({
  onState: (state) => showConnection($("connection"), state),
  onProblem: refused,
});
let subscription = null;

// --- questions -------------------------------------------------------------------------------

/** Ask the question `next`; with `push`, the browser's back button returns to the last one. */
function ask(next, { push = false } = {}) {
  const asked = JSON.stringify(toQuery(question));
  if (question.picture && question.picture !== next.picture) URL.revokeObjectURL(question.picture.url);
  question = next;
  history[push ? "pushState" : "replaceState"](null, "", toLocation(question));
  if (ended || JSON.stringify(toQuery(question)) !== asked) stand();
  showQuestion();
}

/** Subscribe to the question's query. */
function stand() {
  const query = toQuery(question);
  fresh = true;
  setEnded(false);
  problem(null);
  subscription?.close();
  subscription = query && connection.subscribe(query, { onList: listed, onProblem: refused });
  $("results").setAttribute("aria-busy", String(query !== null));
  if (query === null) {
    hits = [];
    draw();
  }
}

function showQuestion() {
  const { target, text, like, picture } = question;
  for (const radio of targets) radio.checked = radio.value === target;
  if (document.activeElement !== $("q")) $("q").value = text ?? "";
  const example = like ?? picture;
  $("example").hidden = !example;
  $("example-name").textContent = picture?.name ?? like?.name ?? like?.id ?? "";
  const url = picture?.url ?? like?.url;
  $("example-picture").hidden = !url;
  if (url) $("example-picture").src = url;
  $("q").placeholder = example ? "or words instead" : "animal";
  $("empty").hidden = toQuery(question) !== null;
  const words = text || (example ? `like ${$("example-name").textContent}` : "");
  document.title = words ? `${words} · Tidelens` : "Tidelens";
}

function pictureUrl(hit) {
  return client.pictureUrl(hit);
}

function moreLike(hit) {
  const like = { id: hit.id, of: hit.target, name: titleOf(hit) };
  if (hit.picture !== null) like.url = pictureUrl(hit);
  $("q").value = "";
  ask({ target: question.target, like }, { push: true });
  $("found").focus({ preventScroll: true });
  scrollTo({ top: 0, behavior: "instant" });
}

async function askPicture(file) {
  const image = await base64Of(file, FOR_QUERY);
  const picture = { image, name: file.name, url: URL.createObjectURL(file) };
  $("q").value = "";
  ask({ target: question.target, picture }, { push: true });
}

function startAsking() {
  let typing = 0;
  const asText = (push) => {
    clearTimeout(typing);
    typing = 0;
    ask({ target: question.target, text: $("q").value }, { push });
  };
  $("q").addEventListener("input", () => {
    clearTimeout(typing);
    // An empty box beside an example does not ask anything; the example has a button to remove it.
    const example = question.like ?? question.picture;
    if (example && !$("q").value.trim()) return;
    typing = setTimeout(() => asText(Boolean(example)), TYPING_PAUSE_MS);
  });
  $("search").addEventListener("submit", (event) => {
    event.preventDefault();
    if ($("q").value.trim()) asText(true);
  });
  for (const radio of targets) {
    radio.addEventListener("change", () => {
      if (typing) asText(false); // the text that was just typed belongs to the question
      ask({ ...question, target: radio.value }, { push: true });
    });
  }
  $("ideas").addEventListener("click", ({ target }) => {
    if (target.matches("button")) ask({ ...question, text: target.textContent }, { push: true });
  });
  $("example-clear").addEventListener("click", () => {
    asText(true);
    $("q").focus();
  });
  $("by-picture").addEventListener("click", () => $("query-file").click());
  $("query-file").addEventListener("change", () => {
    const [file] = $("query-file").files;
    $("query-file").value = "";
    if (file) askPicture(file);
  });
  const first = (transfer) => picturesOf(transfer).slice(0, 1).forEach(askPicture);
  $("q").addEventListener("paste", (event) => first(event.clipboardData));
  onDrop($("search"), first);
  addEventListener("popstate", () => {
    question = fromLocation(location.search);
    $("q").value = question.text ?? "";
    stand();
    showQuestion();
  });
}

// --- answers ---------------------------------------------------------------------------------

function listed(now, type) {
  hits = now;
  problem(null);
  // Changes are marked as new from the second answer to a question on.
  if (type === "snapshot" && fresh) {
    fresh = false;
    schedule({ live: false });
  } else schedule({ live: true });
}

/** Draw at most once a frame. While the list is paused, only a new question is drawn. */
function schedule({ live }) {
  if (paused && live) return showPause();
  if (frame && live) return;
  cancelAnimationFrame(frame);
  frame = requestAnimationFrame(() => {
    frame = 0;
    draw({ live });
  });
}

function draw({ live = false } = {}) {
  const { entered, left } = view.render(hits, { live });
  $("results").setAttribute("aria-busy", "false");
  const asking = toQuery(question) !== null;
  $("about").textContent = about(asking);
  $("pause").hidden = !asking;
  if (live && (entered.length || left)) announce(entered);
}

function about(asking) {
  if (!asking) return "";
  if (ended) return "Not kept current";
  if (!hits.length) return "Nothing yet. What is published will appear here by itself.";
  return `The best ${hits.length}, kept current`;
}

let announced = 0;
function announce(entered) {
  if (!entered.length || Date.now() - announced < ANNOUNCE_EVERY_MS) return;
  announced = Date.now();
  const best = entered[0];
  $("changes").textContent = `New at rank ${best.rank}: ${titleOf(best)}`;
}

function startPausing() {
  $("pause").addEventListener("click", () => {
    paused = !paused;
    showPause();
    if (!paused) schedule({ live: true });
  });
}

function showPause() {
  $("pause").setAttribute("aria-pressed", String(paused));
  $("pause").textContent = paused ? "Resume" : "Pause";
  $("results").classList.toggle("paused", paused);
}

function refused({ code, message, again, ended: over }) {
  const ends = { query_item_gone: "The item that this search follows was deleted." };
  problem(ends[code] ?? `${message}${again ? ". Trying again." : ""}`);
  if (over) setEnded(true);
}

function setEnded(now) {
  ended = now;
  $("results").classList.toggle("ended", now);
  if (!now) return;
  $("results").setAttribute("aria-busy", "false");
  $("about").textContent = about(true);
}

function problem(text) {
  $("problem").hidden = text === null;
  $("problem").textContent = text ?? "";
}

// --- start -----------------------------------------------------------------------------------

startAsking();
startPausing();
startPublishing(client, {
  form: $("publish-caption"),
  caption: $("caption"),
  drop: $("drop"),
  choose: $("choose"),
  file: $("picture-file"),
  log: $("published"),
});
startStrip(client, document);
// On narrow screens the form to publish is above the results: open, it would hide them.
$("publisher").open = getComputedStyle($("publisher")).position === "sticky";
$("q").value = question.text ?? "";
stand();
showQuestion();
addEventListener("online", () => connection.reconnectNow());
document.addEventListener("visibilitychange", () => !document.hidden && connection.reconnectNow());

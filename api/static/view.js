// The drawn list and its changes: cards glide to their new rank, enter and leave.
//
// The card of an id is kept and moved, never redrawn, so that eyes and focus can follow it.
// The technique is FLIP: measure, change the list, measure again, play the difference.

const GLIDE = { duration: 420, easing: "cubic-bezier(.2,.8,.2,1)" };
const APPEAR = { duration: 360, easing: "ease-out" };
const FADE = { duration: 240, easing: "ease-in", fill: "forwards" };
const NEW_FOR_MS = 6_000;

const calm = matchMedia("(prefers-reduced-motion: reduce)");

export class View {
  #list;
  #leaving;
  #cards = new Map();
  #options;

  /**
   * `list` holds the cards, and `leaving` is a layer over it. `onMore(hit)` asks for "more like
   * this", and `pictureUrl(hit)` returns the URL of a picture.
   */
  constructor({ list, leaving, onMore, pictureUrl }) {
    this.#list = list;
    this.#leaving = leaving;
    this.#options = { onMore, pictureUrl };
  }

  /** Show `hits`; with `live` they are a change of the list, and cards that enter are marked. */
  render(hits, { live }) {
    const before = this.#places();
    const focused = document.activeElement;
    const hadFocus = this.#list.contains(focused);

    const wanted = new Set(hits.map(keyOf));
    const left = [...this.#cards].filter(([key]) => !wanted.has(key));
    for (const [key, card] of left) this.#remove(key, card, before.get(key));
    const entered = hits.filter((hit) => !this.#cards.has(keyOf(hit)));
    for (const hit of entered) this.#cards.set(keyOf(hit), new Card(hit, this.#options));
    for (const hit of hits) this.#cards.get(keyOf(hit)).show(hit);
    this.#order(hits);

    if (hadFocus) this.#refocus(focused);
    this.#play(before);
    if (live) for (const hit of entered) this.#cards.get(keyOf(hit)).markNew();
    return { entered, left: left.length };
  }

  /** Put the cards into rank order, and move as few nodes as a single pass can. */
  #order(hits) {
    let next = this.#list.firstElementChild;
    for (const hit of hits) {
      const { node } = this.#cards.get(keyOf(hit));
      if (node === next) next = next.nextElementSibling;
      else this.#list.insertBefore(node, next);
    }
  }

  #remove(key, card, place) {
    this.#cards.delete(key);
    card.node.remove();
    if (!calm.matches && place) this.#fade(card, place);
  }

  /** Remove the card from the list at once; a copy of it fades where it was. */
  #fade({ node }, place) {
    const ghost = document.createElement("div");
    ghost.className = "card ghost";
    ghost.append(...node.childNodes);
    const origin = this.#leaving.getBoundingClientRect();
    ghost.style.left = `${place.left - origin.left}px`;
    ghost.style.top = `${place.top - origin.top}px`;
    ghost.style.width = `${place.width}px`;
    ghost.style.height = `${place.height}px`;
    this.#leaving.append(ghost);
    const end = { opacity: 0, transform: "scale(.94)" };
    ghost.animate([{ opacity: 1, transform: "none" }, end], FADE).onfinish = () => ghost.remove();
  }

  /** Return where the cards are seen now, also in the middle of a movement. */
  #places() {
    if (calm.matches) return new Map();
    return new Map([...this.#cards].map(([key, { node }]) => [key, node.getBoundingClientRect()]));
  }

  #play(before) {
    if (calm.matches) return;
    for (const { node } of this.#cards.values()) {
      for (const animation of node.getAnimations()) animation.cancel();
    }
    // All reads come before all writes: so the browser makes one layout for the whole list.
    const after = this.#places();
    for (const [key, { node }] of this.#cards) {
      const from = before.get(key);
      const to = after.get(key);
      if (!from) {
        const start = { opacity: 0, transform: "translateY(10px) scale(.96)" };
        node.animate([start, { opacity: 1, transform: "none" }], APPEAR);
      } else if (from.left !== to.left || from.top !== to.top) {
        const shift = `translate(${from.left - to.left}px, ${from.top - to.top}px)`;
        node.animate([{ transform: shift }, { transform: "none" }], GLIDE);
      }
    }
  }

  /** Restore the focus: a node that is moved loses it, and one that left gives it to the list. */
  #refocus(element) {
    if (element === document.activeElement) return;
    const kept = this.#list.contains(element) ? element : this.#list.closest("section");
    kept.focus({ preventScroll: true });
  }
}

/** Return a key of the hit; an id may exist in both targets. */
const keyOf = (hit) => `${hit.target}/${hit.id}`;

class Card {
  constructor(hit, { onMore, pictureUrl }) {
    this.pictureUrl = pictureUrl;
    this.node = document.createElement("li");
    this.node.className = `card ${hit.target === "images" ? "picture" : "words"}`;
    this.node.dataset.id = hit.id;
    this.picture = hit.picture === null ? null : pictureBox();
    this.title = element("p", "title");
    this.score = element("span", "score");
    this.id = element("span", "id");
    const more = element("button", "more", "More like this");
    more.type = "button";
    more.onclick = () => onMore(this.hit);
    this.more = more;
    const facts = element("p", "facts");
    facts.append(this.score, this.id);
    const body = element("div", "body");
    body.append(this.title, facts, more);
    this.node.append(...(this.picture ? [this.picture] : []), body);
  }

  show(hit) {
    this.hit = hit;
    const title = titleOf(hit);
    setText(this.title, title);
    this.title.title = title;
    setText(this.score, hit.score.toFixed(3));
    this.score.title = `cosine ${hit.score}`;
    setText(this.id, hit.id);
    this.id.title = hit.id;
    this.more.setAttribute("aria-label", `More like ${title}`);
    if (this.picture) showPicture(this.picture.firstChild, this.pictureUrl(hit), title);
  }

  markNew() {
    this.node.classList.add("is-new");
    setTimeout(() => this.node.classList.remove("is-new"), NEW_FOR_MS);
  }
}

/** Return what a person would call the item: its name, or else its words, or else its id. */
export function titleOf({ id, text, metadata }) {
  const { name, title, caption } = metadata ?? {};
  const words = [text, name, title, caption].find((value) => typeof value === "string" && value);
  return words ?? id;
}

function pictureBox() {
  const box = element("div", "box");
  const image = document.createElement("img");
  image.loading = "lazy";
  image.decoding = "async";
  image.draggable = false;
  image.onload = () => box.classList.remove("missing");
  image.onerror = () => box.classList.add("missing");
  box.append(image);
  return box;
}

function showPicture(image, url, title) {
  if (image.getAttribute("src") !== url) image.src = url;
  if (image.alt !== title) image.alt = title;
}

function element(name, className, text = "") {
  const node = document.createElement(name);
  node.className = className;
  node.textContent = text;
  return node;
}

function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

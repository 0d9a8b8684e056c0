// The page's question, and its form in the URL: text and "more like this" can be sent to others.

/** The number of results that the page shows. */
const K = 24;

/**
 * A question is `{ target }` and one of `text`, `like: { id, of }`, or `picture: { image, url }`
 * (base64 of a file, which is too long for a URL).
 */
export function fromLocation(search) {
  const params = new URLSearchParams(search);
  const target = targetOf(params.get("target"));
  const id = params.get("id");
  if (id) return { target, like: { id, of: targetOf(params.get("of")) } };
  return { target, text: params.get("q") ?? "" };
}

export function toLocation({ target, text, like }) {
  const params = new URLSearchParams();
  if (like) {
    params.set("id", like.id);
    params.set("of", like.of);
  } else if (text) params.set("q", text);
  if (target !== "images") params.set("target", target);
  const search = params.toString();
  return search ? `?${search}` : ".";
}

/** Return the question as a query on the wire, or null if there is nothing to ask yet. */
export function toQuery({ target, text, like, picture }) {
  const common = { target, k: K };
  if (like) return { ...common, id: like.id, of: like.of };
  if (picture) return { ...common, image: picture.image };
  return text?.trim() ? { ...common, text: text.trim() } : null;
}

const targetOf = (name) => (name === "captions" ? "captions" : "images");

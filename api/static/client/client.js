// The JavaScript client of Tidelens: search, publish, and lists that stay current.
//
//   import { Client } from "https://search.example/static/client/client.js";
//
//   const client = new Client();
//   const { hits } = await client.search({ text: "a red bicycle", k: 5 });
//   await client.publish({ target: "captions", id: "caption/1", text: "a red bicycle" });
//
//   const connection = client.connect();
//   const subscription = connection.subscribe(
//     { text: "a red bicycle", k: 5 },
//     { onList: (hits) => console.log(hits.map((hit) => hit.id)) },
//   );
//
// It needs `fetch` and `WebSocket` and no page, so it runs in workers and in Node 22 too. The files
// of this folder import nothing from outside it. docs/live.md says what the server promises.

import { Connection } from "./connection.js";
import { postJson, requestJson } from "./http.js";

export { Connection } from "./connection.js";
export { applyChanges } from "./delta.js";
export { Problem } from "./http.js";
export { Subscription } from "./subscription.js";

/** A client of one server. */
export class Client {
  #base;

  /**
   * @param {string | URL} [base] The URL of the server, below the prefix of any proxy in front of
   *   it. Without it the server is the one that this module was loaded from.
   */
  constructor(base = new URL("../../", import.meta.url)) {
    this.#base = new URL(base);
    if (!this.#base.pathname.endsWith("/")) this.#base.pathname += "/";
  }

  /**
   * Return the URL of a path of the API.
   *
   * @param {string} path The path, such as "/v1/lag".
   * @returns {string}
   */
  url(path) {
    return new URL(`.${path}`, this.#base).href;
  }

  /**
   * Search once (`POST /v1/search`, docs/search.md).
   *
   * @param {object} query One of `text`, `image` (base64) or `id` with `of`; then `target`, `k`,
   *   `filter`, `min_score` and the rest, as in the schema `Query` of /openapi.json.
   * @param {{ signal?: AbortSignal }} [options] `signal` gives the search up.
   * @returns {Promise<object>} The answer, with `hits` (best first) and `as_of`.
   * @throws {Problem} The server refused the query, or could not be reached.
   */
  search(query, { signal } = {}) {
    return postJson(this.url("/v1/search"), query, { signal });
  }

  /**
   * Publish one item (`POST /v1/items`).
   *
   * @param {{ target: "images" | "captions", id: string, text?: string, image?: string,
   *   metadata?: object }} item A caption with its text, or a picture in base64.
   * @returns {Promise<{ topic: string, partition: number, offset: number }>} The publish token:
   *   `search` with it as `wait_for` waits until the item can be found.
   * @throws {Problem} The server refused the item, or could not be reached.
   */
  async publish(item) {
    const { tokens } = await postJson(this.url("/v1/items"), item);
    return tokens[0];
  }

  /**
   * Return how far the server is behind the log (`GET /v1/lag`).
   *
   * @returns {Promise<object>}
   * @throws {Problem} The server could not be reached.
   */
  lag() {
    return requestJson(this.url("/v1/lag"));
  }

  /**
   * Return the URL of the picture of a hit, in exactly the version that was found: a later version
   * of the item has another URL, so no cache shows the earlier one for it.
   *
   * @param {{ picture: string, source: { partition: number, offset: number } }} hit
   * @returns {string}
   */
  pictureUrl({ picture, source }) {
    // The path of an id that a path cannot hold has a query already.
    const separator = picture.includes("?") ? "&" : "?";
    return this.url(`${picture}${separator}at=${source.partition}-${source.offset}`);
  }

  /**
   * Open a live connection, which takes any number of subscriptions and is made again when it is
   * lost.
   *
   * @param {import("./connection.js").ConnectionOptions} [options]
   * @returns {Connection}
   */
  connect(options) {
    return new Connection(this.url("/v1/live").replace(/^http/, "ws"), options);
  }
}

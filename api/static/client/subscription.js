// One subscription: its query, the list of its hits, and the cursor that the list stands at.

import { applyChanges } from "./delta.js";

/**
 * @typedef {object} SubscriptionOptions
 * @property {"top" | "matches"} [mode] "top" (the default) keeps the list of the best hits current.
 *   "matches" reports every item that matches when it is indexed.
 * @property {string | null} [cursor] The cursor of an earlier subscription to the same query, which
 *   goes on from there.
 * @property {import("./delta.js").Hit[]} [hits] The list that belongs to `cursor` (mode "top").
 * @property {number} [throttle_ms] The least time between two messages, in milliseconds (mode
 *   "top").
 * @property {number} [min_change] The least change of a score that is worth a message (mode "top").
 * @property {(hits: import("./delta.js").Hit[], type: "snapshot" | "delta" | "resumed") => void}
 *   [onList] Mode "top": called with the whole list after each message that may have changed it, and
 *   with the type of that message.
 * @property {(hits: import("./delta.js").Hit[]) => void} [onMatches] Mode "matches": called with the
 *   items that matched.
 * @property {(problem: SubscriptionProblem) => void} [onProblem] Called for each error of the
 *   subscription.
 *
 * @typedef {{ code: string, message: string, field: string | null, again: boolean,
 *   ended: boolean }} SubscriptionProblem
 *   An error: `again` says that the connection asks once more by itself, `ended` that the
 *   subscription is over.
 */

/** A subscription of a Connection, which makes it (`Connection.subscribe`). */
export class Subscription {
  #options;
  #close;

  /**
   * @param {string} name The name that messages carry as `sub`.
   * @param {object} query The query, as in `POST /v1/search`.
   * @param {SubscriptionOptions} options
   * @param {(subscription: Subscription) => void} close Ends the subscription.
   */
  constructor(name, query, { cursor = null, hits = [], ...options }, close) {
    this.name = name;
    this.query = query;
    /** The list of mode "top", in rank order; store it with the cursor to resume later. */
    this.hits = hits;
    /** The state that `hits` is exact for; null until the first message. */
    this.cursor = cursor;
    this.#options = options;
    this.#close = close;
  }

  /** End the subscription: no function of its options is called after that. */
  close() {
    this.#close(this);
  }

  /** Return the message that subscribes, with the cursor to go on from. The connection calls it. */
  request() {
    const { name: sub, query, cursor } = this;
    const { mode = "top", throttle_ms, min_change } = this.#options;
    return { op: "subscribe", sub, mode, query, cursor, throttle_ms, min_change };
  }

  /**
   * Take a message of the server: keep list and cursor, then call what follows the subscription.
   * The connection calls it.
   */
  take(message) {
    const { mode = "top", onList, onMatches } = this.#options;
    if (message.type === "reset") {
      // Another space or log answers: its snapshot, which follows, replaces the list.
      this.cursor = null;
      return;
    }
    if (message.type === "snapshot") this.hits = message.hits;
    if (message.type === "delta") this.hits = applyChanges(this.hits, message.changes);
    this.cursor = message.cursor;
    if (message.type === "match") onMatches?.(message.hits);
    else if (mode === "top") onList?.(this.hits, message.type);
  }

  /** Report an error of the subscription. The connection calls it. */
  report(problem) {
    this.#options.onProblem?.(problem);
  }
}

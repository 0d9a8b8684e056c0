// The live protocol (docs/live.md): one socket at a time, and subscriptions that outlive it.

import { Subscription } from "./subscription.js";

const BACKOFF_MS = [250, 500, 1000, 2000, 5000];
const PING_EVERY_MS = 15_000;
// A browser does not say that the network went away (sleep, another Wi-Fi). Silence says so.
const SILENCE_MAX_MS = 40_000;

/**
 * @typedef {object} ConnectionOptions
 * @property {(state: "connecting" | "live" | "closed") => void} [onState] Called when the state of
 *   the socket changes. After "closed" the connection tries again, unless `close` was called.
 * @property {(problem: import("./subscription.js").SubscriptionProblem) => void} [onProblem] Called
 *   for an error that concerns no subscription, such as a message that the server cannot read.
 */

/**
 * A connection to `/v1/live` that is made again whenever it is lost. Each subscription then goes on
 * from its cursor: the server answers `resumed`, or `snapshot` where the list has changed.
 */
export class Connection {
  #url;
  #options;
  #socket = null;
  #closed = false;
  #subscriptions = new Map();
  #names = 0;
  #failures = 0;
  #heardAt = 0;
  #timers = { reconnect: 0, ping: 0 };
  /** The timer of each subscription that is asked for again. */
  #retries = new Map();

  /**
   * @param {string} url The URL of the WebSocket.
   * @param {ConnectionOptions} [options]
   */
  constructor(url, options = {}) {
    this.#url = url;
    this.#options = options;
    this.#connect();
  }

  /**
   * Subscribe to `query`, now and after each reconnect, until the subscription is closed or ended.
   *
   * @param {object} query The query, as in `POST /v1/search`.
   * @param {import("./subscription.js").SubscriptionOptions} [options]
   * @returns {Subscription}
   * @throws {Error} The connection was closed by `close`.
   */
  subscribe(query, options = {}) {
    if (this.#closed) throw new Error("The connection is closed.");
    // The name is new each time, so messages still under way for another query are recognised.
    const name = `sub-${++this.#names}`;
    const subscription = new Subscription(name, query, options, (it) => this.#unsubscribe(it));
    this.#subscriptions.set(name, subscription);
    this.#send(subscription.request());
    return subscription;
  }

  /** Connect at once where the next try is being waited for: the network may be back. */
  reconnectNow() {
    if (this.#socket || this.#closed) return;
    this.#failures = 0;
    clearTimeout(this.#timers.reconnect);
    this.#connect();
  }

  /** Close the socket and end every subscription, for good. */
  close() {
    if (this.#closed) return;
    this.#closed = true;
    this.#subscriptions.clear();
    const socket = this.#socket;
    this.#lost();
    socket?.close();
  }

  #connect() {
    this.#options.onState?.("connecting");
    const socket = new WebSocket(this.#url);
    this.#socket = socket;
    // A socket given up for its silence may still deliver. By then the lists belong to the next.
    const ifCurrent = (handle) => (event) => socket === this.#socket && handle(event);
    socket.onopen = ifCurrent(() => this.#opened());
    socket.onmessage = ifCurrent((event) => this.#received(JSON.parse(event.data)));
    // A `close` event follows every `error` event, and says as much.
    socket.onclose = ifCurrent(() => this.#lost());
  }

  #opened() {
    this.#heardAt = Date.now();
    this.#options.onState?.("live");
    this.#timers.ping = setTimeout(() => this.#ping(), PING_EVERY_MS);
    for (const subscription of this.#subscriptions.values()) this.#send(subscription.request());
  }

  #lost() {
    this.#socket = null;
    clearTimeout(this.#timers.ping);
    clearTimeout(this.#timers.reconnect);
    for (const timer of this.#retries.values()) clearTimeout(timer);
    this.#retries.clear();
    this.#options.onState?.("closed");
    if (this.#closed) return;
    this.#timers.reconnect = setTimeout(() => this.#connect(), this.#nextBackoff());
  }

  #nextBackoff() {
    const longest = BACKOFF_MS[Math.min(this.#failures++, BACKOFF_MS.length - 1)];
    // Jitter keeps the clients of a restarted server from coming back all at once.
    return longest * (0.5 + Math.random() / 2);
  }

  #ping() {
    if (Date.now() - this.#heardAt > SILENCE_MAX_MS) {
      // `close` waits for an answer of the other side, and just that is missing.
      const socket = this.#socket;
      this.#lost();
      socket.close();
      return;
    }
    this.#send({ op: "ping" });
    this.#timers.ping = setTimeout(() => this.#ping(), PING_EVERY_MS);
  }

  #send(message) {
    if (this.#socket?.readyState === WebSocket.OPEN) this.#socket.send(JSON.stringify(message));
  }

  #unsubscribe(subscription) {
    if (!this.#forget(subscription)) return;
    this.#send({ op: "unsubscribe", sub: subscription.name });
  }

  #forget({ name }) {
    clearTimeout(this.#retries.get(name));
    this.#retries.delete(name);
    return this.#subscriptions.delete(name);
  }

  #received(message) {
    this.#heardAt = Date.now();
    if (message.type === "pong") return;
    const subscription = this.#subscriptions.get(message.sub);
    if (message.type === "error") return this.#failed(message, subscription);
    if (!subscription) return;
    this.#failures = 0;
    subscription.take(message);
  }

  #failed({ sub = null, code, message, field = null, retry_after = null }, subscription) {
    const problem = { code, message, field, again: false, ended: false };
    if (sub === null) return this.#options.onProblem?.(problem);
    if (!subscription) return;
    // An error with `retry_after` says that the same query may be accepted later.
    problem.again = retry_after !== null;
    problem.ended = !problem.again;
    if (problem.ended) this.#forget(subscription);
    else this.#retryLater(subscription, retry_after);
    subscription.report(problem);
  }

  #retryLater(subscription, retryAfterS) {
    const wait = Math.max(this.#nextBackoff(), retryAfterS * 1000);
    const retry = () => this.#send(subscription.request());
    this.#retries.set(subscription.name, setTimeout(retry, wait));
  }
}

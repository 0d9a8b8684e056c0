// The live protocol without a page: one socket, one standing list, kept current across reconnects.
//
//   const live = new Live(url, { onState, onList, onProblem });
//   live.watch({ text: "animal", k: 24 });
//
// The list survives the sockets it is carried on: after a reconnect we resume with the cursor of
// the last message, and the server answers `resumed` or, when the list changed, `snapshot`.

const BACKOFF_MS = [250, 500, 1000, 2000, 5000];
const PING_EVERY_MS = 15_000;
// Browsers do not tell when a network silently went away (sleep, another Wi-Fi): silence does.
const SILENCE_MAX_MS = 40_000;

/**
 * The list after `changes`: remove leaves and moves, insert by ascending rank, then update.
 * Mirrors `apply` of contracts/wire/delta.py; other orders give wrong lists.
 */
export function apply(hits, changes) {
  const of = (...kinds) => changes.filter((change) => kinds.includes(change.change));
  const gone = new Set(of("leave", "move").map((change) => change.id));
  const result = hits.filter((hit) => !gone.has(hit.id));
  for (const { rank, hit } of of("enter", "move").sort((a, b) => a.rank - b.rank)) {
    result.splice(rank - 1, 0, hit);
  }
  const updated = new Map(of("update").map((change) => [change.id, change.hit]));
  return result.map((hit, place) => ({ ...(updated.get(hit.id) ?? hit), rank: place + 1 }));
}

/** One subscription: the query, the list held for it, and the cursor that both stand at. */
export class Standing {
  constructor(sub, query) {
    this.sub = sub;
    this.query = query;
    this.hits = [];
    this.cursor = null;
  }

  opening() {
    const { sub, query, cursor } = this;
    return { op: "subscribe", sub, mode: "top", query, cursor };
  }

  /** Take a server message; true when the list may have changed. */
  take(message) {
    switch (message.type) {
      case "snapshot":
        this.hits = message.hits;
        break;
      case "delta":
        this.hits = apply(this.hits, message.changes);
        break;
      case "resumed":
        break;
      case "reset":
        // Another space or log: the fresh snapshot that follows replaces the list.
        this.cursor = null;
        return false;
      default:
        return false;
    }
    this.cursor = message.cursor;
    return true;
  }
}

export class Live {
  #url;
  #on;
  #socket = null;
  #standing = null;
  #subs = 0;
  #failures = 0;
  #timers = { reconnect: 0, resubscribe: 0, ping: 0 };
  #heardAt = 0;

  /**
   * `onState("connecting" | "live" | "closed")`; `onList(hits, type)` with the type of
   * the message behind it; `onProblem({ code, message, field, again, ended })`: whether we try
   * again by ourselves, or the subscription is over.
   */
  constructor(url, { onState, onList, onProblem }) {
    this.#url = url;
    this.#on = { onState, onList, onProblem };
  }

  start() {
    this.#connect();
  }

  /** Stand for `query` from now on, or for nothing (null). */
  watch(query) {
    clearTimeout(this.#timers.resubscribe);
    if (this.#standing) this.#send({ op: "unsubscribe", sub: this.#standing.sub });
    // A new name each time: what is still under way for the former query is then recognised.
    this.#standing = query ? new Standing(`page-${++this.#subs}`, query) : null;
    this.#subscribe();
  }

  /** Do not sit out the wait: the network is back, or somebody looks at the page again. */
  hurry() {
    if (this.#socket) return;
    this.#failures = 0;
    clearTimeout(this.#timers.reconnect);
    this.#connect();
  }

  #connect() {
    this.#on.onState("connecting");
    const socket = new WebSocket(this.#url);
    this.#socket = socket;
    // A socket given up for its silence may still deliver: the list stands on the next one then.
    const ifCurrent = (handle) => (event) => socket === this.#socket && handle(event);
    socket.onopen = ifCurrent(() => this.#opened());
    socket.onmessage = ifCurrent((event) => this.#heard(JSON.parse(event.data)));
    // An `error` event is always followed by `close`, which tells as much.
    socket.onclose = ifCurrent(() => this.#lost());
  }

  #opened() {
    this.#heardAt = Date.now();
    this.#on.onState("live");
    this.#timers.ping = setTimeout(() => this.#ping(), PING_EVERY_MS);
    this.#subscribe();
  }

  #lost() {
    this.#socket = null;
    clearTimeout(this.#timers.ping);
    clearTimeout(this.#timers.resubscribe);
    this.#on.onState("closed");
    this.#timers.reconnect = setTimeout(() => this.#connect(), this.#backoff());
  }

  #backoff() {
    const longest = BACKOFF_MS[Math.min(this.#failures++, BACKOFF_MS.length - 1)];
    // Jitter, so that a restarted server does not meet all its pages at once.
    return longest * (0.5 + Math.random() / 2);
  }

  #ping() {
    if (Date.now() - this.#heardAt > SILENCE_MAX_MS) {
      // `close` would wait for the other side's answer, which is what is missing.
      const socket = this.#socket;
      this.#lost();
      socket.close();
      return;
    }
    this.#send({ op: "ping" });
    this.#timers.ping = setTimeout(() => this.#ping(), PING_EVERY_MS);
  }

  #subscribe() {
    if (this.#standing) this.#send(this.#standing.opening());
  }

  #send(message) {
    if (this.#socket?.readyState === WebSocket.OPEN) this.#socket.send(JSON.stringify(message));
  }

  #heard(message) {
    this.#heardAt = Date.now();
    if (message.type === "pong") return;
    if (message.type === "error") return this.#refused(message);
    const standing = this.#standing;
    if (message.sub !== standing?.sub) return;
    this.#failures = 0;
    if (standing.take(message)) this.#on.onList(standing.hits, message.type);
  }

  #refused({ sub = null, code, message, field = null, retry_after = null }) {
    if (sub !== null && sub !== this.#standing?.sub) return;
    // Said where the same query may be accepted a moment later.
    const again = sub !== null && retry_after !== null;
    const ended = sub !== null && !again;
    this.#on.onProblem({ code, message, field, again, ended });
    if (ended) this.#standing = null;
    if (again) this.#timers.resubscribe = setTimeout(() => this.#subscribe(), this.#backoff());
  }
}

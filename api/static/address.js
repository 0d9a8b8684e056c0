// Where the API is: beside the page, below whatever prefix a proxy in front of it has.

/** This file lies in `static/`, one level below the page. */
const BASE = new URL("../", import.meta.url);

/** The URL of a path of the API, as answers name them: `/v1/lag`. */
export const urlOf = (path) => new URL(`.${path}`, BASE).href;

/** The same for a WebSocket. */
export const socketUrlOf = (path) => urlOf(path).replace(/^http/, "ws");

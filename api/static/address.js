// The address of the API: it is beside the page, below any prefix of a proxy in front of it.

/** The page's folder: this file is in `static/`, one level below the page. */
const BASE = new URL("../", import.meta.url);

/** Returns the URL of a path of the API, such as `/v1/lag`. */
export const urlOf = (path) => new URL(`.${path}`, BASE).href;

/** Returns the WebSocket URL of a path of the API. */
export const socketUrlOf = (path) => urlOf(path).replace(/^http/, "ws");

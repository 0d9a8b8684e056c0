// Requests to the API: JSON in, JSON out, and problem documents as errors that can be shown.

/** A refusal by the server (RFC 9457), or a server that cannot be reached. */
export class Problem extends Error {
  /**
   * @param {string} message A sentence for people.
   * @param {{ status?: number, code?: string, field?: string | null }} [facts]
   *   `status` is that of the HTTP answer, and 0 where none came. `code` is the stable name of the
   *   error, for programs. `field` is the part of the request that was refused.
   */
  constructor(message, { status = 0, code = "unreachable", field = null } = {}) {
    super(message);
    this.name = "Problem";
    this.status = status;
    this.code = code;
    this.field = field;
  }
}

/**
 * Request a URL and return the JSON that it answers with.
 *
 * @param {string} url
 * @param {RequestInit} [options] The options of `fetch`.
 * @throws {Problem} The server refused, or could not be reached.
 */
export async function requestJson(url, options) {
  let response;
  try {
    response = await fetch(url, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem("The server cannot be reached.");
  }
  const body = await response.json().catch(() => null);
  if (response.ok && body !== null) return body;
  const { status } = response;
  throw new Problem(body?.detail ?? body?.title ?? `The server answered ${status}.`, {
    status,
    code: body?.code ?? "error",
    field: body?.field ?? null,
  });
}

/**
 * Send `body` as JSON by POST and return the JSON that the server answers with.
 *
 * @param {string} url
 * @param {object} body
 * @param {RequestInit} [options] Further options of `fetch`, such as `signal`.
 * @throws {Problem} The server refused, or could not be reached.
 */
export function postJson(url, body, options = {}) {
  const headers = { "content-type": "application/json" };
  return requestJson(url, { ...options, method: "POST", headers, body: JSON.stringify(body) });
}

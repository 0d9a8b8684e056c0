// Requests to the API: JSON in, JSON out, problem documents as errors that can be shown.

import { urlOf } from "./address.js";

/** A refusal (RFC 9457), or the server out of reach; `message` is for people. */
export class Problem extends Error {
  constructor(detail, { status = 0, code = "unreachable", field = null } = {}) {
    super(detail);
    this.status = status;
    this.code = code;
    this.field = field;
  }
}

export const get = (path) => request(path);

export const post = (path, body) =>
  request(path, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body),
  });

async function request(path, options) {
  let response;
  try {
    response = await fetch(urlOf(path), options);
  } catch {
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

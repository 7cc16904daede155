/**
 * The public API, and nothing else. The key is a private field of one object: it is in no storage, no cookie, no URL,
 * and gone with the page.
 */

const BASE = new URL("../../../", import.meta.url); // this file is console/static/js/api.js

/** What the server answered instead, in its own words. */
export class ApiError extends Error {
  constructor(status, error, requestId, retryAfter = null) {
    super(error.message);
    this.name = "ApiError";
    this.status = status;
    this.code = error.code;
    this.details = error.details ?? {};
    this.requestId = requestId;
    this.retryAfter = retryAfter;
  }
}

/** One server. `onRefused` is called when a call is answered 401. */
export class Api {
  #key = null;

  constructor() {
    this.onRefused = () => {};
  }

  /** Whether a key is sent with calls. */
  get hasKey() {
    return this.#key !== null;
  }

  use(key) {
    this.#key = key;
  }

  forget() {
    this.#key = null;
  }

  get(where, options = {}) {
    return this.call("GET", where, options);
  }

  /** JSON of an answer. Options: query, json, parts ([[name, file or text]]), text (the answer is not JSON), signal. */
  async call(method, where, options = {}) {
    const response = await this.#send(method, where, options);
    const requestId = response.headers.get("x-request-id");
    if (response.ok) return options.text ? response.text() : response.json();
    const error = await problemOf(response);
    if (response.status === 401) this.onRefused();
    throw new ApiError(response.status, error, requestId, response.headers.get("retry-after"));
  }

  async #send(method, where, { query = {}, json, parts, signal }) {
    const url = new URL(where.replace(/^\//, ""), BASE);
    for (const [name, value] of Object.entries(query))
      if (value !== null && value !== undefined) url.searchParams.set(name, value);
    const requestId = freshRequestId();
    const headers = { accept: "application/json, text/plain", "x-request-id": requestId };
    if (this.#key !== null) headers.authorization = `Bearer ${this.#key}`;
    if (json !== undefined) headers["content-type"] = "application/json";
    const body = json !== undefined ? JSON.stringify(json) : parts === undefined ? undefined : formOf(parts);
    try {
      return await fetch(url, {
        method,
        headers,
        body,
        signal,
        cache: "no-store",
        credentials: "omit",
        redirect: "error",
      });
    } catch (cause) {
      if (cause.name === "AbortError") throw cause;
      const message = "No answer: the server is stopped, the connection was cut, or the file cannot be read.";
      throw new ApiError(0, { code: "unreachable", message }, requestId);
    }
  }
}

/** A path with names filled in: path`/collections/${name}`. */
export function path(texts, ...names) {
  return texts.reduce((done, text, index) => done + encodeURIComponent(names[index - 1]) + text);
}

async function problemOf(response) {
  try {
    return (await response.json()).error;
  } catch {
    // A proxy in between, perhaps: its words are no document of ours.
    return { code: `http_${response.status}`, message: `The answer was ${response.status} ${response.statusText}` };
  }
}

function formOf(parts) {
  const form = new FormData();
  for (const [name, value] of parts) form.append(name, value);
  return form;
}

function freshRequestId() {
  // randomUUID is there in secure contexts only, and a page of a plain http address is none.
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

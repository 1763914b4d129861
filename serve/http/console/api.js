// Calls of the API: the key, errors in the service's words, and photos.

import { $, ask } from "./dom.js";

const KEY = "vetrina-key";
const MAX_PHOTOS = 400, MAX_PHOTO_REQUESTS = 3, MAX_TRIES = 5;

export class ApiError extends Error {
  constructor(status, { code, message, field }) {
    super(message);
    Object.assign(this, { status, code, field });
  }
}

/** Call the API; a body is sent by POST, as JSON or as a form. Throws ApiError or AbortError. */
export async function call(path, { body, signal } = {}) {
  const response = await send(`v1/${path}`, body, signal);
  const content = await response.json().catch(() => null);
  if (response.ok && content) {
    if (content.release && !body?.user_id) $("#release").textContent = content.release; // a user may be in an A/B test
    return content;
  }
  throw new ApiError(response.status, content?.error ?? { message: `The service responded with status ${response.status}.` });
}

/** Return an ApiError if the service has no release to answer with, else null. */
export async function notReady() {
  const response = await request("readyz", {});
  if (response.ok) return null;
  const content = await response.json().catch(() => null);
  return new ApiError(response.status, content?.error ?? { message: `/readyz responded with status ${response.status}.` });
}

async function send(path, body, signal, tries = MAX_TRIES) {
  const headers = {}, key = sessionStorage.getItem(KEY);
  if (key) headers.authorization = `Bearer ${key}`;
  if (body && !(body instanceof FormData)) headers["content-type"] = "application/json";
  const sent = body && !(body instanceof FormData) ? JSON.stringify(body) : body;
  const response = await request(path, { method: body ? "POST" : "GET", body: sent, headers, signal });
  const pause = response.headers.get("retry-after"); // the key's rate limit is exceeded, or the service is overloaded
  const again = response.status === 401 ? await newKey(key) : !response.ok && pause && tries > 1;
  if (!again) return response;
  await response.body?.cancel();
  await new Promise((resolve) => setTimeout(resolve, 1000 * pause));
  return send(path, body, signal, tries - 1);
}

async function request(path, options) {
  try {
    return await fetch(path, options); // relative, so that a proxy may publish the service below a path prefix
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, { message: "The service does not respond. Is it running?" });
  }
}

let keyDialog;

/** Ask for a key, once for all calls that need it; resolves to true if there is another than `rejected` now. */
async function newKey(rejected) {
  if (sessionStorage.getItem(KEY) !== rejected) return true;
  keyDialog ??= ask({
    title: "API key required",
    text: rejected
      ? "The service does not accept this key. Enter another one."
      : "This service requires an API key (vetrina keys create NAME makes one). It is stored until this tab is closed.",
    yes: "Use key",
    label: "Key",
  }).finally(() => (keyDialog = null));
  const key = await keyDialog;
  if (key) sessionStorage.setItem(KEY, key.trim());
  return Boolean(key);
}

let scopes = [];

/** Fetch the scopes of the key, and show if the service needs none. */
export async function enter() {
  const caller = await call("me");
  scopes = caller.scopes;
  $("#access").hidden = caller.auth !== "none";
}

export function forgetKey() {
  sessionStorage.removeItem(KEY);
}

export const may = (scope) => scopes.includes(scope) || scopes.includes("admin");

export const itemPath = (itemId) => `items/${encodeURIComponent(itemId)}`;

export const recommend = (body, signal) => call("recommend", { body: { ...body, log: false }, signal });

const items = new Map();

/** Store the items of a response, so that their titles need not be fetched. */
export function remember(list) {
  for (const each of list) items.set(each.item_id, each);
  return list;
}

/** An item, from an earlier response or fetched. */
export async function item(itemId, signal) {
  if (!items.has(itemId)) remember([(await call(itemPath(itemId), { signal })).item]);
  return items.get(itemId);
}

// Photos need the key too, so they are fetched: only visible ones, a few at a time, the latest request first.
const photos = new Map(), waiting = [];
let running = 0;

/** An object URL of one of an item's photos; null if there is none, or if `visible` says that nobody looks any more. */
export function photo(itemId, size, position, visible) {
  const path = `v1/${itemPath(itemId)}/image?size=${size}&number=${position}`;
  const entry = photos.get(path) ?? { path, visible: [] };
  entry.visible.push(visible);
  entry.url ??= new Promise((resolve) => waiting.push(Object.assign(entry, { resolve })));
  photos.delete(path);
  photos.set(path, entry); // as the last used
  for (const [oldest, { url }] of photos) {
    if (photos.size <= MAX_PHOTOS) break;
    photos.delete(oldest);
    url.then((each) => each && URL.revokeObjectURL(each));
  }
  setTimeout(fetchNext); // once the picture is in the page
  return entry.url;
}

async function fetchNext() {
  if (running >= MAX_PHOTO_REQUESTS || !waiting.length) return;
  running += 1;
  const { path, visible, resolve } = waiting.pop();
  let url = null;
  if (visible.some((each) => each())) {
    const response = await send(path).catch(() => null), body = await response?.blob(); // unread, it keeps a connection
    if (response?.ok) url = URL.createObjectURL(body);
  }
  visible.length = 0;
  if (!url) photos.delete(path);
  resolve(url);
  running -= 1;
  fetchNext();
}

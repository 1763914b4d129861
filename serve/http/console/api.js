// Calls of the service: the key, errors in its own words, photos.

import { $, ask } from "./dom.js";

const KEY = "vetrina-key";
const MOST_PHOTOS = 400, AT_ONCE = 3;

export class Refused extends Error {
  constructor(status, { code, message, field }) {
    super(message);
    Object.assign(this, { status, code, field });
  }
}

/** Ask the service; a body goes by POST, as JSON or as the form that it is. Throws Refused, or AbortError. */
export async function call(path, { body, signal } = {}) {
  const response = await send(path, body, signal);
  const answer = await response.json().catch(() => null);
  if (response.ok && answer) {
    if (answer.release && !body?.user_id) $("#serving").textContent = answer.release; // a shopper may be in an A/B test
    return answer;
  }
  throw new Refused(response.status, answer?.error ?? { message: `The service answered ${response.status}.` });
}

async function send(path, body, signal, tries = 5) {
  const headers = {}, key = sessionStorage.getItem(KEY);
  if (key) headers.authorization = `Bearer ${key}`;
  if (body && !(body instanceof FormData)) headers["content-type"] = "application/json";
  const form = body && !(body instanceof FormData) ? JSON.stringify(body) : body;
  let response;
  try {
    response = await fetch(`v1/${path}`, { method: body ? "POST" : "GET", body: form, headers, signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(0, { message: "The service does not answer. Is it running?" });
  }
  const pause = response.headers.get("retry-after"); // too often, or too much to do
  const again = response.status === 401 ? await newKey(key) : !response.ok && pause && tries > 1;
  if (!again) return response;
  await response.body?.cancel();
  await new Promise((resolve) => setTimeout(resolve, 1000 * pause));
  return send(path, body, signal, tries - 1);
}

let asking;

/** Ask for a key, once for all calls that miss it; whether there is another than `refused` now. */
async function newKey(refused) {
  if (sessionStorage.getItem(KEY) !== refused) return true;
  asking ??= ask({
    title: "A key, please",
    text: refused
      ? "The service does not know this key. Give another one."
      : "This service answers to who has a key. It is kept until this tab is closed.",
    yes: "Use key",
    label: "Key",
  }).finally(() => (asking = null));
  const key = await asking;
  if (key) sessionStorage.setItem(KEY, key.trim());
  return Boolean(key);
}

let scopes = [];

/** Ask what the key may do. */
export async function enter() {
  scopes = (await call("me")).scopes;
}

export function forgetKey() {
  sessionStorage.removeItem(KEY);
}

export const may = (scope) => scopes.includes(scope) || scopes.includes("admin");

export const itemPath = (itemId) => `items/${encodeURIComponent(itemId)}`;

export const recommended = (body, signal) => call("recommend", { body: { ...body, log: false }, signal });

const items = new Map();

/** Remember what answers say of items, so that a title need not be asked for. */
export function remember(found) {
  for (const one of found) items.set(one.item_id, one);
  return found;
}

/** What is known of an item, in short. */
export async function item(itemId, signal) {
  if (!items.has(itemId)) remember([(await call(itemPath(itemId), { signal })).item]);
  return items.get(itemId);
}

// Photos need the key too, so they come by fetch: those that are seen, a few at a time, the latest asked for first.
const photos = new Map(), waiting = [];
let running = 0;

/** An object URL of one of an item's photos, null where there is none or `wanted` says that nobody looks any more. */
export function photo(itemId, size, place, wanted) {
  const path = `${itemPath(itemId)}/image?size=${size}&number=${place}`;
  const asked = photos.get(path) ?? { path, wanted: [] };
  asked.wanted.push(wanted);
  asked.url ??= new Promise((resolve) => waiting.push(Object.assign(asked, { resolve })));
  photos.delete(path);
  photos.set(path, asked); // as the last used
  for (const [oldest, { url }] of photos) {
    if (photos.size <= MOST_PHOTOS) break;
    photos.delete(oldest);
    url.then((each) => each && URL.revokeObjectURL(each));
  }
  setTimeout(next); // once the picture is where it will be looked at
  return asked.url;
}

async function next() {
  if (running >= AT_ONCE || !waiting.length) return;
  running += 1;
  const { path, wanted, resolve } = waiting.pop();
  let url = null;
  if (wanted.some((each) => each())) {
    const response = await send(path).catch(() => null), body = await response?.blob(); // unread, it keeps a connection
    if (response?.ok) url = URL.createObjectURL(body);
  }
  wanted.length = 0;
  if (!url) photos.delete(path);
  resolve(url);
  running -= 1;
  next();
}

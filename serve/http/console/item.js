// One item in a dialog: its catalogue fields, its neighbours in each space, and related items.

import { call, itemPath, may, remember } from "./api.js";
import { card, EVENTS, link, picture } from "./cards.js";
import { $, announce, fill, h, icon, iconButton, latest, note } from "./dom.js";
import { plural, price } from "./format.js";
import { changed, current, go, href, toggled } from "./router.js";
import { simulate, user } from "./state.js";

const NEIGHBOURS = 6;
const dialog = $("#item"), body = $("#item-body");
const never = new AbortController().signal;
const next = latest(never);
const manifests = new Map();

dialog.prepend(iconButton("close", "Close", () => dialog.close(), { class: "round close" }));
dialog.addEventListener("close", () => current().params.has("item") && go(changed({ item: null })));
dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());

/** Show an item over the view; null closes the dialog. */
export async function showItem(itemId) {
  const signal = next();
  if (itemId === null) {
    dialog.close();
    return;
  }
  if (!dialog.open) {
    body.replaceChildren();
    dialog.showModal();
  }
  await fill(body, signal, async () => {
    const { item, release } = await call(itemPath(itemId), { signal });
    return [details(item), neighbours(itemId, release, signal)];
  });
  if (signal.aborted) return;
  body.scrollTop = 0;
  body.querySelector("h2")?.focus();
}

function details(item) {
  const { params } = current();
  const steer = (name) => {
    const search = current().view === "search" ? new URLSearchParams(params) : new URLSearchParams();
    go(changed({ [name]: toggled(search, name, item.item_id), item: null }, { view: "search", params: search }));
  };
  const steerButton = (name, text, symbol) =>
    h("button", {
      type: "button",
      onclick: () => steer(name),
      "aria-pressed": String(params.getAll(name).includes(item.item_id)),
    }, icon(symbol), text);
  const count = h("span", {});
  const showCount = () => (count.textContent = plural(user.simulated.length, "simulated event"));
  const eventButton = (type) =>
    h("button", { type: "button", onclick: () => {
      simulate(item.item_id, type);
      showCount();
      announce(`${EVENTS[type]}: ${count.textContent}`);
    } }, EVENTS[type]);
  showCount();
  const rows = [
    ["Id", item.item_id], ["Brand", item.brand], ["Category", item.category],
    ...Object.entries(item.attributes ?? {}).map(([name, values]) => [name, values.join(", ")]),
    ["Available", item.available ? "yes" : "no"], ["Domain", item.domain],
  ];
  const photos = item.images.map((_, position) => picture(item, position ? 160 : 640, position));
  return h("section", { class: "facts" },
    photos[0] ?? picture(item),
    photos.length > 1 && h("p", { class: "photos" }, photos.slice(1)),
    h("h2", { tabindex: -1 }, item.title || item.item_id),
    h("p", { class: "price" }, price(item)),
    item.description && h("p", {}, item.description),
    h("p", { class: "buttons" },
      steerButton("like", "More like this", "more"), steerButton("unlike", "Less like this", "less")),
    h("dl", {}, rows.filter(([, value]) => value).map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)])),
    h("h3", {}, "Simulate an event of a user"),
    h("p", { class: "buttons" }, ["view", "click", "cart", "purchase", "dislike"].map(eventButton)),
    note(count, "; see ", h("a", { href: href("user") }, "User"), ". Nothing is stored."));
}

/** Similar items over all spaces and in each space of the release, and items that the shop's relations name. */
function neighbours(itemId, release, signal) {
  const section = h("section", { class: "around" });
  const request = (path) => call(`${itemPath(itemId)}/${path}`, { signal });
  const similar = (space) => `similar?k=${NEIGHBOURS}&space=${encodeURIComponent(space)}`;
  fill(section, signal, async () => {
    const fused = await request(`similar?k=${NEIGHBOURS}`);
    // Without the right to read the manifest, only the spaces named in the response are known.
    const { spaces, tower, behaviour } = may("admin")
      ? await manifest(release, signal)
      : { spaces: fused.items[0]?.retriever_scores ?? {} };
    return [
      row("Similar in all spaces", fused, signal),
      Object.keys(spaces).map((space) => row(`Similar by ${space}`, request(similar(space)), signal)),
      tower && row("Similar by behaviour (tower)", request(similar("tower")), signal),
      behaviour?.knowledge && row("Related items", request(`related?k=${NEIGHBOURS}`), signal),
    ];
  });
  return section;
}

async function manifest(release, signal) {
  if (!manifests.has(release)) {
    manifests.set(release, (await call(`releases/${encodeURIComponent(release)}`, { signal })).manifest);
  }
  return manifests.get(release);
}

/** A row of cards below its name, with placeholders until the response arrives. */
function row(name, response, signal) {
  const placeholders = Array.from({ length: NEIGHBOURS }, () => h("li", { class: "ghost" }));
  const list = h("ul", { role: "list", class: "cards small" }, placeholders);
  fill(list, signal, async () => {
    const { items } = await response;
    if (!items.length) return h("li", { class: "soft whole-row" }, "None.");
    return remember(items).map((each) =>
      h("li", {}, card(each, link(each, changed({ item: each.item_id })), { scores: each.retriever_scores })));
  });
  return [h("h3", {}, name), list];
}

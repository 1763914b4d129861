// One item in a dialog: all that the catalogue says, its neighbours in each space, and what goes with it.

import { call, itemPath, may, remember } from "./api.js";
import { card, DONE, link, picture } from "./cards.js";
import { $, announce, fill, h, icon, iconButton, latest, note } from "./dom.js";
import { plural, price } from "./format.js";
import { changed, go, href, toggled, where } from "./router.js";
import { shopper, tryOut } from "./state.js";

const NEIGHBOURS = 6;
const dialog = $("#item"), body = $("#item-body");
const forever = new AbortController().signal;
const next = latest(forever);
const manifests = new Map();

dialog.prepend(iconButton("close", "Close", () => dialog.close(), { class: "round close" }));
dialog.addEventListener("close", () => where().params.has("item") && go(changed({ item: null })));
dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());

/** Show an item over the view; null closes. */
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
    return [facts(item), around(itemId, release, signal)];
  });
  if (signal.aborted) return;
  body.scrollTop = 0;
  body.querySelector("h2")?.focus();
}

function facts(item) {
  const { params } = where();
  const steer = (name) => {
    const search = where().view === "search" ? new URLSearchParams(params) : new URLSearchParams();
    go(changed({ [name]: toggled(search, name, item.item_id), item: null }, { view: "search", params: search }));
  };
  const labelled = (name, text, what) =>
    h("button", {
      type: "button",
      onclick: () => steer(name),
      "aria-pressed": String(params.getAll(name).includes(item.item_id)),
    }, icon(what), text);
  const tried = h("span", {}), tell = () => (tried.textContent = `${plural(shopper.tried.length, "act")} tried out`);
  const doing = (type) =>
    h("button", { type: "button", onclick: () => {
      tryOut(item.item_id, type);
      tell();
      announce(`${DONE[type]}: ${tried.textContent}`);
    } }, DONE[type]);
  tell();
  const rows = [
    ["Id", item.item_id], ["Brand", item.brand], ["Category", item.category],
    ...Object.entries(item.attributes ?? {}).map(([name, values]) => [name, values.join(", ")]),
    ["Available", item.available ? "yes" : "no"], ["Domain", item.domain],
  ];
  const photos = item.images.map((_, place) => picture(item, place ? 160 : 640, place));
  return h("section", { class: "facts" },
    photos[0] ?? picture(item),
    photos.length > 1 && h("p", { class: "photos" }, photos.slice(1)),
    h("h2", { tabindex: -1 }, item.title || item.item_id),
    h("p", { class: "price" }, price(item)),
    item.description && h("p", {}, item.description),
    h("p", { class: "buttons" },
      labelled("like", "More like this", "more"), labelled("unlike", "Less like this", "less")),
    h("dl", {}, rows.filter(([, value]) => value).map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)])),
    h("h3", {}, "As if a shopper had it"),
    h("p", { class: "buttons" }, ["view", "click", "cart", "purchase", "dislike"].map(doing)),
    note(tried, " under ", h("a", { href: href("shopper") }, "Shopper"), "; nothing is stored."));
}

/** Neighbours by all spaces together and by each that the release has, and what the shop's relations say. */
function around(itemId, release, signal) {
  const section = h("section", { class: "around" });
  const ask = (what) => call(`${itemPath(itemId)}/${what}`, { signal });
  const similar = (space) => `similar?k=${NEIGHBOURS}&space=${encodeURIComponent(space)}`;
  fill(section, signal, async () => {
    const together = await ask(`similar?k=${NEIGHBOURS}`);
    // Who may not see the manifest sees the spaces that the answer names.
    const { spaces, tower, behaviour } = may("admin")
      ? await manifest(release, signal)
      : { spaces: together.items[0]?.retriever_scores ?? {} };
    return [
      row("Alike in all", together, signal),
      Object.keys(spaces).map((space) => row(`Alike by ${space}`, ask(similar(space)), signal)),
      tower && row("Alike by behaviour (tower)", ask(similar("tower")), signal),
      behaviour?.knowledge && row("Goes with it", ask(`related?k=${NEIGHBOURS}`), signal),
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

/** A row of cards under its name, with their places until the answer comes. */
function row(name, answer, signal) {
  const ghosts = Array.from({ length: NEIGHBOURS }, () => h("li", { class: "ghost" }));
  const list = h("ul", { role: "list", class: "cards small" }, ghosts);
  fill(list, signal, async () => {
    const { items } = await answer;
    if (!items.length) return h("li", { class: "soft whole-row" }, "Nothing.");
    return remember(items).map((each) =>
      h("li", {}, card(each, link(each, changed({ item: each.item_id })), { scores: each.retriever_scores })));
  });
  return [h("h3", {}, name), list];
}

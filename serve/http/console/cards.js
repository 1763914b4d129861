// Items as cards and rows, the actions on them, and the reasons for them.

import { item as fetchItem, photo } from "./api.js";
import { badge, h, iconButton, shares } from "./dom.js";
import { leaf, number, percent, price } from "./format.js";

const MAX_PARTS = 4; // of a score, the largest
const EVENTS = { view: "viewed", click: "clicked", cart: "added to cart", purchase: "bought", rating: "rated", dislike: "disliked" };

/** A photo of an item, in a box of fixed size. */
export function picture(item, size = 320, position = 0) {
  const box = h("span", { class: "picture" });
  const show = (url) => box.append(url
    ? h("img", { src: url, alt: "" })
    : h("span", { class: "letter", "aria-hidden": "true" }, Array.from(title(item))[0]));
  if (item.image) photo(item.item_id, size, position, () => box.isConnected).then(show);
  else show(null);
  return box;
}

/** An item as a card; `whole` is the link or button that covers it, `actions` are round buttons. */
export const card = (item, whole, { actions = [], badge, scores, reasons } = {}) =>
  h("article", { class: "card" },
    picture(item),
    h("div", { class: "caption" },
      h("p", { class: "title" }, whole),
      h("p", { class: "soft one" }, [item.brand, leaf(item.category)].filter(Boolean).join(" · ")),
      h("div", { class: "foot" }, h("p", { class: "price" }, price(item), badge), actions),
      scores && h("p", { class: "scores figures" }, Object.entries(scores).map(([name, value]) =>
        h("span", {}, h("strong", {}, number(value, 2)), " ", name)))),
    reasons && why(reasons));

export const title = (item) => item.title || item.item_id;

/** A title that is a link over the whole card. */
export const link = (item, href) => h("a", { class: "whole", href }, title(item));

export const button = (item, action, onclick) =>
  h("button", { type: "button", class: "whole", onclick, "aria-label": `${action}: ${title(item)}` }, title(item));

/** Buttons that move a search towards an item or away from it. */
export const steering = (item, { likes, unlikes, steer }) => [
  iconButton("more", `More like ${title(item)}`, () => steer("like", item.item_id), pressed(likes, item)),
  iconButton("less", `Less like ${title(item)}`, () => steer("unlike", item.item_id), pressed(unlikes, item)),
];

const pressed = (ids, item) => ({ "aria-pressed": String(ids.includes(item.item_id)) });

/** The reasons for a recommendation: a sentence, and the largest parts of the score in percent of all parts. */
function why({ sentence, parts, history }) {
  const all = [
    ...Object.entries(parts).map(([name, value]) => ({ name, value })),
    ...history.map(({ item_id, type, value }) => ({ name: EVENTS[type] ?? type, item_id, value })),
  ];
  const total = all.reduce((sum, { value }) => sum + Math.abs(value), 0) || 1;
  const largest = all.sort((one, other) => Math.abs(other.value) - Math.abs(one.value)).slice(0, MAX_PARTS);
  return h("div", { class: "why" },
    h("p", { class: "sentence" }, sentence),
    shares(largest.map(({ name, item_id, value }) => ({
      name: [name, item_id && " ", item_id && nameOf(item_id)],
      text: `${value < 0 ? "−" : "+"}${percent(Math.abs(value) / total)}`,
      share: Math.abs(value) / total,
      negative: value < 0,
    }))));
}

/** The title of an item by its id; shows the id until the title is fetched. */
export function nameOf(itemId) {
  const text = h("span", {}, itemId);
  fetchItem(itemId).then((item) => (text.textContent = title(item)), () => null);
  return text;
}

/** A condition that can be removed. */
export const chip = (label, name, onclick) =>
  h("li", { class: "chip" }, h("span", {}, label), iconButton("close", `Remove ${name}`, onclick));

/** How positions changed between two lists: a number by item id, undefined for an item that was not in the first. */
export function moves(before, after) {
  const positions = new Map(before.map((item, position) => [item.item_id, position]));
  const change = (id, position) => (positions.has(id) ? positions.get(id) - position : undefined);
  return new Map(after.map(({ item_id }, position) => [item_id, change(item_id, position)]));
}

export function moved(by, alone) {
  if (by === 0) return null;
  if (by === undefined) return badge(alone, "strong");
  const [arrow, word] = by > 0 ? ["↑", "up"] : ["↓", "down"];
  return badge([h("span", { "aria-hidden": "true" }, arrow), h("span", { class: "unseen" }, `${word} `), Math.abs(by)]);
}

export { EVENTS };

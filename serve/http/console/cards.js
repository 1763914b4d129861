// Items as cards and rows, what may be done with them, and why they are there.

import { item as known, photo } from "./api.js";
import { badge, h, iconButton, shares } from "./dom.js";
import { leaf, number, price, signed } from "./format.js";

const PARTS = 4; // of a score, the largest
const DONE = { view: "viewed", click: "clicked", cart: "in the cart", purchase: "bought", dislike: "disliked" };

/** A photo of an item in a box that has its place from the start. */
export function picture(item, size = 320, place = 0) {
  const box = h("span", { class: "picture" });
  const show = (url) => box.append(url
    ? h("img", { src: url, alt: "" })
    : h("span", { class: "letter", "aria-hidden": "true" }, Array.from(title(item))[0]));
  if (item.image) photo(item.item_id, size, place, () => box.isConnected).then(show);
  else show(null);
  return box;
}

/** An item as a card; `whole` is the link or button that all of it is, `actions` are round buttons. */
export const card = (item, whole, { actions = [], badge, scores, reasons } = {}) =>
  h("article", { class: "card" },
    picture(item),
    h("div", { class: "said" },
      h("p", { class: "title" }, whole),
      h("p", { class: "soft one" }, [item.brand, leaf(item.category)].filter(Boolean).join(" · ")),
      h("div", { class: "foot" }, h("p", { class: "price" }, price(item), badge), actions),
      scores && h("p", { class: "scores figures" }, Object.entries(scores).map(([name, value]) =>
        h("span", {}, h("strong", {}, number(value, 2)), " ", name)))),
    reasons && why(reasons));

export const title = (item) => item.title || item.item_id;

/** A title that stands for the whole card. */
export const link = (item, href) => h("a", { class: "whole", href }, title(item));

export const button = (item, what, onclick) =>
  h("button", { type: "button", class: "whole", onclick, "aria-label": `${what}: ${title(item)}` }, title(item));

/** Buttons that steer a search towards an item or away from it. */
export const steering = (item, { likes, unlikes, steer }) => [
  iconButton("more", `More like ${title(item)}`, () => steer("like", item.item_id), pressed(likes, item)),
  iconButton("less", `Less like ${title(item)}`, () => steer("unlike", item.item_id), pressed(unlikes, item)),
];

const pressed = (ids, item) => ({ "aria-pressed": String(ids.includes(item.item_id)) });

/** The reasons of a recommendation: its sentence, and the largest parts of its score as bars. */
function why({ sentence, parts, history }) {
  const all = [
    ...Object.entries(parts).map(([name, value]) => ({ name, value })),
    ...history.map(({ item_id, type, value }) => ({ name: DONE[type] ?? type, item_id, value })),
  ];
  const largest = all.sort((one, other) => Math.abs(other.value) - Math.abs(one.value)).slice(0, PARTS);
  const whole = Math.max(...largest.map(({ value }) => Math.abs(value)), 1e-9);
  return h("div", { class: "why" },
    h("p", { class: "sentence" }, sentence),
    shares(largest.map(({ name, item_id, value }) => ({
      name: [name, item_id && " ", item_id && nameOf(item_id)],
      text: signed(value),
      share: Math.abs(value) / whole,
      against: value < 0,
    }))));
}

/** The title of an item by its id: the id until it is known. */
export function nameOf(itemId) {
  const text = h("span", {}, itemId);
  known(itemId).then((found) => (text.textContent = title(found)), () => null);
  return text;
}

/** Something that can be taken away again. */
export const chip = (label, what, onclick) =>
  h("li", { class: "chip" }, h("span", {}, label), iconButton("close", `Remove ${what}`, onclick));

/** How places moved from one list to another: by item id a number, undefined for what was not there. */
export function moves(before, after) {
  const places = new Map(before.map((item, place) => [item.item_id, place]));
  const by = (id, place) => (places.has(id) ? places.get(id) - place : undefined);
  return new Map(after.map(({ item_id }, place) => [item_id, by(item_id, place)]));
}

export function moved(by, alone) {
  if (by === 0) return null;
  if (by === undefined) return badge(alone, "strong");
  const [arrow, word] = by > 0 ? ["↑", "up"] : ["↓", "down"];
  return badge([h("span", { "aria-hidden": "true" }, arrow), h("span", { class: "unseen" }, `${word} `), Math.abs(by)]);
}

export { DONE };

// Search: text, a photo, example items and filters, all in the address; the results as cards.

import { call, recommend, remember } from "../api.js";
import { card, chip, link, nameOf, steering } from "../cards.js";
import { announce, h, icon, latest, problem } from "../dom.js";
import { number, plural } from "../format.js";
import { changed, go, href, toggled } from "../router.js";
import { keepPhoto, photos } from "../state.js";
import { suggestions } from "../suggest.js";
import { VirtualList } from "../virtual.js";
import { countFacets, countMatches, facetPanel, label, readFilter } from "./facets.js";

export const title = "Search", scope = "query";
const K = 100;
const FIELDS = ["title", "category", "brand", "price", "currency", "image", "attributes"];

export function start(root, signal) {
  const next = latest(signal);
  const query = h("input", { id: "query", type: "search", placeholder: "Text, or drop a photo", maxlength: 2000 });
  const file = h("input", {
    type: "file", accept: "image/*", id: "photo", class: "unseen", onchange: () => usePhoto(file.files[0]),
  });
  const form = h("form", { class: "asking", role: "search", onsubmit: (event) => {
    event.preventDefault();
    go(changed({ q: query.value.trim() || null }));
  } },
  h("div", { class: "field" }, icon("search"), query, suggestions(query, () => form.requestSubmit(), signal)),
  file,
  h("label", { for: "photo", class: "button", title: "Search by a photo" }, icon("camera"), h("span", {}, "Photo")),
  h("button", { class: "primary" }, "Search"));
  const chips = h("ul", { role: "list", class: "chips", "aria-label": "Conditions of the search" });
  const facets = h("aside", { class: "facets", "aria-label": "Filters", id: "facets" });
  const opener = h("button", {
    type: "button", class: "opener", "aria-expanded": "false", "aria-controls": "facets",
    onclick: () => opener.setAttribute("aria-expanded", String(facets.classList.toggle("open"))),
  }, icon("filters"), "Filters");
  const heading = h("h2", {}, "…"), summary = h("p", { class: "soft" });
  const list = h("ul", { class: "cards" }), room = h("div", { class: "room" }, list);
  const skip = h("a", { class: "past", href: "#results", onclick: (event) => {
    event.preventDefault();
    (list.querySelector(".whole") ?? heading).focus();
  } }, "Skip filters");
  const results = h("section", { class: "found", "aria-label": "Items" },
    h("header", {}, h("div", {}, heading, summary), opener), skip, facets, chips, room);
  heading.tabIndex = -1;
  root.append(form, results);

  let items = [], isQuery = false, params = new URLSearchParams();
  const likes = () => ({ likes: params.getAll("like"), unlikes: params.getAll("unlike"), steer });
  const cards = new VirtualList(list, (position) => {
    const item = items[position];
    const whole = link(item, changed({ item: item.item_id }));
    return card(item, whole, { actions: steering(item, likes()), scores: isQuery ? item.retriever_scores : null });
  }, signal);

  function steer(name, itemId) {
    const other = name === "like" ? "unlike" : "like";
    go(changed({ [name]: toggled(params, name, itemId), [other]: params.getAll(other).filter((id) => id !== itemId) }));
  }

  function usePhoto(photo) {
    if (photo?.type.startsWith("image/")) go(changed({ photo: keepPhoto(photo) }));
  }
  for (const type of ["dragover", "dragleave", "drop"]) {
    addEventListener(type, (event) => {
      if (!event.dataTransfer?.types.includes("Files")) return;
      event.preventDefault();
      root.classList.toggle("dropping", type === "dragover");
      if (type === "drop") usePhoto(event.dataTransfer.files[0]);
    }, { signal });
  }
  addEventListener("paste", (event) => usePhoto(event.clipboardData.files[0]), { signal });

  /** Show a heading and items; `extra` is shown in place of items: an error or a hint. */
  function show(title, description, extra = null) {
    heading.textContent = title;
    summary.replaceChildren(...[description].flat());
    results.querySelectorAll(".problem, .empty").forEach((element) => element.remove());
    if (extra) room.prepend(extra);
    cards.show(items.length);
  }

  async function update(address) {
    params = address;
    const now = next();
    query.value = params.get("q") ?? "";
    file.value = "";
    chips.replaceChildren(...conditions(params));
    results.setAttribute("aria-busy", "true");
    try {
      const request = read(params), response = await (request.isQuery ? search : popular)(request, now);
      const counts = await countFacets(request, response.items, now);
      items = remember(response.items);
      isQuery = request.isQuery;
      facets.replaceChildren(...facetPanel(counts, params, items[0]?.currency), ...limit(params));
      opener.hidden = skip.hidden = !Object.keys(counts).length;
      const title = isQuery ? matchTitle(request, items, countMatches(counts)) : "Popular and new";
      const description = isQuery ? interpretation(response, items) : "Recommendations for a new user";
      show(title, description, items.length ? null : noMatches(params));
      announce(`${title}, ${plural(items.length, "item")} shown`);
    } catch (error) {
      if (now.aborted) return;
      items = [];
      show("Search failed", [], problem(error));
    }
    if (!now.aborted) results.removeAttribute("aria-busy");
  }
  return update;
}

/** The request that the address describes. */
function read(params) {
  const photo = photos[params.get("photo")]?.file, text = params.get("q"), like = params.getAll("like");
  const k = Number(params.get("k")) || K, isQuery = Boolean(text || photo || like.length);
  return { photo, text, like, unlike: params.getAll("unlike"), filter: readFilter(params), k, isQuery };
}

function search({ photo, text, like, unlike, filter, k }, signal) {
  const body = { ...(text && { text }), like, unlike, filter, k, fields: FIELDS };
  return call("search", { body: photo ? formData({ ...body, image: photo }) : body, signal });
}

const popular = ({ unlike, filter, k }, signal) => recommend({ filter, exclude: unlike, k, fields: FIELDS }, signal);

function formData(body) {
  const data = new FormData();
  for (const [name, value] of Object.entries(body)) {
    if (name === "filter") data.append(name, JSON.stringify(value));
    else for (const each of [value].flat()) data.append(name, each);
  }
  return data;
}

/** What matched, not how many items were requested: a search by similarity always returns as many as requested. */
function matchTitle({ text, photo, like }, items, matches) {
  if (!items.length) return "No items match";
  if (!text) return matches === null ? plural(items.length, "item") : `${plural(matches, "item")} by similarity`;
  const containing = items.some((item) => "keywords" in item.retriever_scores);
  if (!containing) return "No item contains these words";
  if (matches === null) return plural(items.length, "item");
  return `${plural(matches, "item")} ${matches === 1 ? "contains" : "contain"} the words` + (photo || like.length ? ", by similarity" : "");
}

/** How the text was interpreted, how many items are shown, and the time. */
function interpretation({ understood: { text, filter, corrected }, took_ms: took }, items) {
  const parts = [];
  if (text) parts.push("Understood as ", h("strong", {}, text));
  for (const [column, condition] of Object.entries(filter)) parts.push(`, ${column} ${inWords(condition)}`);
  for (const [from, to] of Object.entries(corrected)) parts.push(" · ", h("s", {}, from), ` corrected to ${to}`);
  const shown = items.length ? `${plural(items.length, "item")} shown, the most similar first · ` : "";
  return [...parts, parts.length ? " · " : "", shown, `${number(took)} ms`];
}

const OPERATORS = { lt: "below", lte: "at most", gt: "above", gte: "at least" };
const inWords = (condition) =>
  Object.entries(condition).map(([name, value]) => `${OPERATORS[name]} ${value}`).join(", ");

const withoutFilters = (params) => href("search", params.has("q") ? { q: params.get("q") } : {});

const noMatches = (params) => h("div", { class: "empty panel" },
  h("p", {}, "No item passes the filters. Remove a filter, or search without any."),
  h("a", { href: withoutFilters(params), class: "button" }, "Search without filters"));

function conditions(params) {
  const without = (name, value) => () => go(changed({ [name]: value ? toggled(params, name, value) : null }));
  const photo = photos[params.get("photo")];
  const values = [...new Set(params.keys())].filter((name) => name in readFilter(params) && name !== "price");
  const list = [
    photo && chip([h("img", { src: photo.url, alt: "" }), "Your photo"], "the photo", without("photo")),
    ...params.getAll("like").map((id) => chip(["More like ", nameOf(id)], `more like ${id}`, without("like", id))),
    ...params.getAll("unlike").map((id) => chip(["Less like ", nameOf(id)], `less like ${id}`, without("unlike", id))),
    ...values.flatMap((name) =>
      params.getAll(name).map((value) => chip(value, `${label(name)} ${value}`, without(name, value)))),
    params.get("min") && chip(`from ${params.get("min")}`, "the lowest price", without("min")),
    params.get("max") && chip(`up to ${params.get("max")}`, "the highest price", without("max")),
  ].filter(Boolean);
  if (list.length > 1) {
    const clear = () => go(withoutFilters(params));
    list.push(h("li", {}, h("button", { type: "button", class: "plain", onclick: clear }, "Clear all")));
  }
  return list;
}

/** The choice of how many items to show. */
function limit(params) {
  const select = h("select", { onchange: () => go(changed({ k: select.value })) }, [100, 300, 1000].map((k) =>
    h("option", { value: k, selected: Number(params.get("k") ?? K) === k }, k)));
  return [h("label", { class: "many" }, "Show at most ", select)];
}

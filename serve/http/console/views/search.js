// Search: words, a photo, items to look like, and filters, all in the address; what was found as cards.

import { call, recommended, remember } from "../api.js";
import { card, chip, link, nameOf, steering } from "../cards.js";
import { announce, bar, h, icon, latest, problem } from "../dom.js";
import { number, plural } from "../format.js";
import { changed, go, href, toggled } from "../router.js";
import { keepPhoto, photos } from "../state.js";
import { suggesting } from "../suggest.js";
import { VirtualList } from "../virtual.js";

export const title = "Search", scope = "query";
const K = 100;
const columns = new Set(["category", "brand", "price"]); // that the catalogue has, as far as is known

export function start(root, signal) {
  const next = latest(signal);
  const words = h("input", { id: "words", type: "search", placeholder: "Words, or drop a photo", maxlength: 2000 });
  const file = h("input", {
    type: "file", accept: "image/*", id: "photo", class: "unseen", onchange: () => take(file.files[0]),
  });
  const form = h("form", { class: "asking", role: "search", onsubmit: (event) => {
    event.preventDefault();
    go(changed({ q: words.value.trim() || null }));
  } },
  h("div", { class: "field" }, icon("search"), words, suggesting(words, () => form.requestSubmit(), signal)),
  file,
  h("label", { for: "photo", class: "button", title: "Search by a photo" }, icon("camera"), h("span", {}, "Photo")),
  h("button", { class: "primary" }, "Search"));
  const chips = h("ul", { role: "list", class: "chips", "aria-label": "What the search goes by" });
  const facets = h("aside", { class: "facets", "aria-label": "Filters", id: "facets" });
  const opener = h("button", {
    type: "button", class: "opener", "aria-expanded": "false", "aria-controls": "facets",
    onclick: () => opener.setAttribute("aria-expanded", String(facets.classList.toggle("open"))),
  }, icon("filters"), "Filters");
  const heading = h("h2", {}, "…"), understood = h("p", { class: "soft" });
  const list = h("ul", { class: "cards" }), found = h("section", { class: "found", "aria-label": "Items" },
    h("header", {}, h("div", {}, heading, understood), opener), facets, chips, h("div", { class: "room" }, list));
  root.append(form, found);

  let items = [], asks = false, params = new URLSearchParams();
  const likes = () => ({ likes: params.getAll("like"), unlikes: params.getAll("unlike"), steer });
  const cards = new VirtualList(list, (place) => {
    const item = items[place];
    const whole = link(item, changed({ item: item.item_id }));
    return card(item, whole, { actions: steering(item, likes()), scores: asks ? item.retriever_scores : null });
  }, signal);

  function steer(name, itemId) {
    const other = name === "like" ? "unlike" : "like";
    go(changed({ [name]: toggled(params, name, itemId), [other]: params.getAll(other).filter((id) => id !== itemId) }));
  }

  function take(photo) {
    if (photo?.type.startsWith("image/")) go(changed({ photo: keepPhoto(photo) }));
  }
  for (const type of ["dragover", "dragleave", "drop"]) {
    addEventListener(type, (event) => {
      if (!event.dataTransfer?.types.includes("Files")) return;
      event.preventDefault();
      root.classList.toggle("dropping", type === "dragover");
      if (type === "drop") take(event.dataTransfer.files[0]);
    }, { signal });
  }
  addEventListener("paste", (event) => take(event.clipboardData.files[0]), { signal });

  async function update(given) {
    params = given;
    const now = next();
    words.value = params.get("q") ?? "";
    file.value = "";
    chips.replaceChildren(...chosen(params));
    found.setAttribute("aria-busy", "true");
    try {
      const query = read(params), answer = await (query.asks ? search : popular)(query, now);
      const counts = await counted(query, answer, now);
      items = remember(answer.items);
      asks = query.asks;
      const many = `${items.length === query.k ? "First " : ""}${plural(items.length, "item")}`;
      heading.textContent = asks ? many : "In demand and new";
      understood.replaceChildren(...(asks ? meaning(answer) : ["What a new shopper sees."]));
      announce(`${plural(items.length, "item")} in ${number(answer.took_ms)} milliseconds`);
      facets.replaceChildren(...panel(counts, params, answer.items[0]?.currency));
      opener.hidden = !facets.childElementCount;
      found.querySelector(".problem")?.remove();
      cards.show(items.length);
    } catch (error) {
      if (now.aborted) return;
      heading.textContent = "Not found";
      understood.replaceChildren();
      items = [];
      cards.show(0);
      found.querySelector(".problem")?.remove();
      found.append(problem(error));
    }
    if (!now.aborted) found.removeAttribute("aria-busy");
  }
  return update;
}

/** What the address asks for. */
function read(params) {
  const photo = photos[params.get("photo")]?.file, text = params.get("q"), like = params.getAll("like");
  const filter = {};
  for (const column of ["category", "brand"]) {
    if (params.has(column)) filter[column] = { in: params.getAll(column) };
  }
  for (const [name, bound] of [["min", "gte"], ["max", "lte"]]) {
    if (params.get(name)) filter.price = { ...filter.price, [bound]: Number(params.get(name)) };
  }
  const k = Number(params.get("k")) || K;
  return { photo, text, like, unlike: params.getAll("unlike"), filter, k, asks: Boolean(text || photo || like.length) };
}

async function search({ photo, text, like = [], unlike = [], filter, k }, signal) {
  const asked = { ...(text && { text }), like, unlike, filter, facets: [...columns], k };
  try {
    return await call("search", { body: photo ? form({ ...asked, image: photo }) : asked, signal });
  } catch (error) {
    const missing = error.field === "facets" && [...columns].find((name) => error.message.includes(`'${name}'`));
    if (!missing) throw error;
    columns.delete(missing);
    return search({ photo, text, like, unlike, filter, k }, signal);
  }
}

function form(asked) {
  const data = new FormData();
  for (const [name, value] of Object.entries(asked)) {
    if (name === "filter") data.append(name, JSON.stringify(value));
    else for (const each of [value].flat()) data.append(name, each);
  }
  return data;
}

const popular = ({ unlike, filter, k }, signal) => recommended({ filter, exclude: unlike, k }, signal);

/** Counts of each column as if nothing of it were chosen, so that more can be. They go by words and filter only. */
async function counted({ text, filter }, answer, signal) {
  const about = text ? { text } : { like: answer.items.slice(0, 1).map((item) => item.item_id) };
  if (!text && !about.like.length) return {};
  const counts = { ...(answer.facets ?? (await search({ ...about, filter, k: 1 }, signal)).facets) };
  await Promise.all([...columns].filter((name) => name in filter).map(async (name) => {
    const { [name]: _, ...others } = filter;
    const body = { ...about, filter: others, facets: [name], understand: name !== "price", k: 1 };
    counts[name] = (await call("search", { body, signal })).facets[name];
  }));
  return counts;
}

/** How the words were understood. */
function meaning({ understood: { text, filter, corrected }, took_ms }) {
  const said = [];
  if (text) said.push("Understood as ", h("strong", {}, text));
  for (const [column, condition] of Object.entries(filter)) said.push(`, ${column} ${worded(condition)}`);
  for (const [from, to] of Object.entries(corrected)) said.push(" · ", h("s", {}, from), ` read as ${to}`);
  return [...said, said.length ? " · " : "", `${number(took_ms)} ms`];
}

const WORDS = { lt: "under", lte: "at most", gt: "over", gte: "at least" };
const worded = (condition) =>
  Object.entries(condition).map(([name, value]) => `${WORDS[name]} ${value}`).join(", ");

function chosen(params) {
  const without = (name, value) => () => go(changed({ [name]: value ? toggled(params, name, value) : null }));
  const photo = photos[params.get("photo")];
  const made = [
    photo && chip([h("img", { src: photo.url, alt: "" }), "Your photo"], "the photo", without("photo")),
    ...params.getAll("like").map((id) => chip(["More like ", nameOf(id)], `more like ${id}`, without("like", id))),
    ...params.getAll("unlike").map((id) => chip(["Less like ", nameOf(id)], `less like ${id}`, without("unlike", id))),
    ...["category", "brand"].flatMap((name) =>
      params.getAll(name).map((value) => chip(value, `${name} ${value}`, without(name, value)))),
    params.get("min") && chip(`from ${params.get("min")}`, "the lowest price", without("min")),
    params.get("max") && chip(`up to ${params.get("max")}`, "the highest price", without("max")),
  ].filter(Boolean);
  if (made.length > 1) {
    const clear = () => go(href("search", params.has("q") ? { q: params.get("q") } : {}));
    made.push(h("li", {}, h("button", { type: "button", class: "plain", onclick: clear }, "Clear all")));
  }
  return made;
}

function panel(counts, params, currency) {
  const columns = ["category", "brand"].filter((name) => counts[name]?.length);
  const groups = columns.map((name) => choices(name, counts[name], params));
  if (counts.price?.length || params.has("min") || params.has("max")) {
    groups.push(prices(counts.price ?? [], params, currency));
  }
  const most = h("select", { onchange: () => go(changed({ k: most.value })) }, [100, 300, 1000].map((k) =>
    h("option", { value: k, selected: Number(params.get("k") ?? K) === k }, k)));
  return groups.length ? [...groups, h("label", { class: "many" }, "Show at most ", most)] : [];
}

const group = (name, ...parts) => h("fieldset", {}, h("legend", {}, name), parts);

const choices = (name, values, params) => group(name,
  h("div", { class: "values" }, values.map(({ value, count }) => h("label", {},
    h("input", {
      type: "checkbox", checked: params.getAll(name).includes(value),
      onchange: () => go(changed({ [name]: toggled(params, name, value) })),
    }),
    h("span", {}, value), h("span", { class: "soft figures" }, number(count))))));

function prices(ranges, params, currency) {
  const most = Math.max(...ranges.map(({ count }) => count));
  const range = ({ from, to, count }) =>
    h("button", { type: "button", class: "range", onclick: () => go(changed({ min: from, max: to })) },
      h("span", { class: "figures" }, from === to ? number(from, 2) : `${number(from, 2)} – ${number(to, 2)}`),
      h("span", { class: "soft figures" }, number(count)), bar(count / most));
  const bound = (name, label) => h("label", {}, label, h("input", {
    type: "number", min: 0, step: "any", inputmode: "decimal", value: params.get(name),
    onchange: (event) => go(changed({ [name]: event.target.value || null })),
  }));
  return group(`price${currency ? ` (${currency})` : ""}`, h("div", { class: "values" }, ranges.map(range)),
    h("div", { class: "bounds" }, bound("min", "From"), bound("max", "To")));
}

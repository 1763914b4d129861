// Filters of a search: any column or attribute that the items have, with the number of matching items by value.

import { call } from "../api.js";
import { bar, h } from "../dom.js";
import { number } from "../format.js";
import { changed, go, toggled } from "../router.js";

const COLUMNS = ["category", "brand", "domain", "currency"];
const ATTRIBUTE = "attributes."; // of the name in filters and in the address; facets have the bare name
const MAX_FACETS = 16; // in one request
const MIN_VALUES = 2; // below this, a filter would change nothing

/** The name of a column or attribute as a label. */
export const label = (name) => name.replace(ATTRIBUTE, "");

/** The filter that the address describes. */
export function readFilter(params) {
  const filter = {};
  for (const name of new Set(params.keys())) {
    if (COLUMNS.includes(name) || name.startsWith(ATTRIBUTE)) filter[name] = { in: params.getAll(name) };
  }
  for (const [name, bound] of [["min", "gte"], ["max", "lte"]]) {
    if (params.get(name)) filter.price = { ...filter.price, [bound]: Number(params.get(name)) };
  }
  return filter;
}

const missing = new Set(); // columns and attributes that no item of the catalogue has

async function count(body, names, signal) {
  const facets = names.filter((name) => !missing.has(name)).map(label);
  try {
    return (await call("search", { body: { ...body, facets, k: 1 }, signal })).facets;
  } catch (error) {
    const name = error.field === "facets" && names.find((each) => !missing.has(each) && error.message.includes(`'${label(each)}'`));
    if (!name) throw error;
    missing.add(name);
    return count(body, names, signal);
  }
}

/**
 * Count the values of columns and of the attributes of `items`, by filter name. Counts depend on text and filter only.
 * A filtered column is counted without its own filter, so that more values can be chosen.
 */
export async function countFacets({ text, filter }, items, signal) {
  const query = text ? { text } : { like: items.slice(0, 1).map((item) => item.item_id) };
  if (!text && !query.like.length) return {};
  const attributes = items.flatMap((item) => Object.keys(item.attributes ?? {})).map((name) => ATTRIBUTE + name);
  const chosen = Object.keys(filter).filter((name) => name.startsWith(ATTRIBUTE));
  const names = [...new Set(["available", "price", ...COLUMNS, ...chosen, ...attributes])].slice(0, MAX_FACETS);
  const all = await count({ ...query, filter }, names, signal);
  const counts = Object.fromEntries(names.map((name) => [name, all[label(name)] ?? []]));
  await Promise.all(names.filter((name) => name in filter).map(async (name) => {
    const { [name]: _, ...others } = filter;
    const body = { ...query, filter: others, understand: name !== "price" };
    counts[name] = (await count(body, [name], signal))[label(name)] ?? [];
  }));
  return counts;
}

/** The number of items that match text and filter, as every item is either available or not; null if not counted. */
export const countMatches = (counts) =>
  counts.available?.length ? counts.available.reduce((sum, { count: items }) => sum + items, 0) : null;

export function facetPanel(counts, params, currency) {
  const isChosen = (name) => params.has(name);
  const useful = ([name, values]) => name !== "available" && (values.length >= MIN_VALUES || isChosen(name));
  return Object.entries(counts).filter(useful).map(([name, values]) => {
    if (name === "price") return prices(values, params, currency);
    return name.startsWith(ATTRIBUTE)
      ? h("details", { class: "attribute", open: isChosen(name) }, h("summary", {}, label(name)), choices(name, values, params))
      : choices(name, values, params);
  }).sort((one, other) => order(one) - order(other));
}

const order = (element) => (element.dataset?.name === "price" ? 1 : element.tagName === "DETAILS" ? 2 : 0);

const choices = (name, values, params) => {
  const isAttribute = name.startsWith(ATTRIBUTE);
  return h("fieldset", {}, h("legend", { class: isAttribute ? "unseen" : null }, label(name)),
    h("div", { class: "values" }, values.map(({ value, count: items }) => h("label", {},
      h("input", {
        type: "checkbox", checked: params.getAll(name).includes(String(value)),
        onchange: () => go(changed({ [name]: toggled(params, name, String(value)) })),
      }),
      h("span", {}, value), h("span", { class: "soft figures" }, number(items))))));
};

function prices(ranges, params, currency) {
  const largest = Math.max(...ranges.map(({ count: items }) => items));
  const range = ({ from, to, count: items }) =>
    h("button", { type: "button", class: "range", onclick: () => go(changed({ min: from, max: to })) },
      h("span", { class: "figures" }, from === to ? number(from, 2) : `${number(from, 2)} – ${number(to, 2)}`),
      h("span", { class: "soft figures" }, number(items)), bar(items / largest));
  const bound = (name, text) => h("label", {}, text, h("input", {
    type: "number", min: 0, step: "any", inputmode: "decimal", value: params.get(name),
    onchange: (event) => go(changed({ [name]: event.target.value || null })),
  }));
  return h("fieldset", { "data-name": "price" }, h("legend", {}, `price${currency ? ` (${currency})` : ""}`),
    h("div", { class: "values" }, ranges.map(range)), h("div", { class: "bounds" }, bound("min", "From"), bound("max", "To")));
}

// Catalogue: the last feed, its rejected rows with reasons, and the items hidden by the content policy.

import { call } from "../api.js";
import { announce, fill, h, note, problem, shares } from "../dom.js";
import { number, plural } from "../format.js";
import { VirtualList } from "../virtual.js";

export const title = "Catalogue", scope = "admin";
const PAGE = 200;

export function start(root, signal) {
  const rejects = pagedList("catalogue", "rejects", ["No rejected rows", "Rejected rows"], rejectRow, feedReport, signal);
  const hidden = pagedList("review", "hidden", ["No hidden items", "Items hidden by the content policy"], hiddenRow,
    policy, signal);
  root.append(rejects.above, hidden.section, rejects.section); // the report first, the longest list last
  return () => {
    rejects.show();
    hidden.show();
  };
}

/**
 * A long list that is fetched page by page while it is scrolled: the field `name` of responses of `path`, in rows made
 * by `draw`. `headings` are for an empty list and for any other; `describe(response)` fills the element `above`.
 */
function pagedList(path, name, headings, draw, describe, signal) {
  const above = h("div", {}), heading = h("h2", {}, "…"), list = h("ul", { class: "rows" });
  let loaded = [], requested = new Set();
  const rows = new VirtualList(list, (position) => {
    if (!loaded[position]) load(position - (position % PAGE));
    return h("article", {}, loaded[position] ? draw(loaded[position]) : h("span", { class: "soft" }, "…"));
  }, signal);

  async function page(from) {
    requested.add(from);
    const response = await call(`${path}?offset=${from}&limit=${PAGE}`, { signal });
    response[name].forEach((row, position) => (loaded[from + position] = row));
    return response;
  }

  async function load(from) {
    if (requested.has(from)) return;
    try {
      await page(from);
      rows.refresh(from, from + PAGE);
    } catch (error) {
      if (!signal.aborted) list.before(problem(error));
    }
  }

  function show() {
    loaded = [];
    requested = new Set();
    fill(above, signal, async () => {
      const response = await page(0), { total } = response;
      heading.textContent = total ? `${headings[1]} (${number(total)})` : headings[0];
      rows.show(total);
      return describe(response);
    });
  }
  return { above, section: h("section", { "aria-label": headings[1] }, heading, above, list), show };
}

function feedReport({ report }) {
  announce(`${plural(report.read, "row")} read, ${number(report.kept)} kept, ${number(report.rejected)} rejected`);
  return [
    note(`${report.feed}, ${report.format}, version ${report.version}`),
    h("ul", { role: "list", class: "tiles" }, ["read", "kept", "rejected"].map((name) =>
      h("li", { class: "panel" }, h("strong", {}, number(report[name])), name))),
    counts("Reasons for rejection", report.rejects),
    counts("Repaired values", report.repaired),
    counts("Live changes included", report.changed),
    report.ignored_columns.length > 0 && note(`Columns not used: ${report.ignored_columns.join(", ")}`),
  ];
}

function counts(name, byCode) {
  const all = Object.entries(byCode).sort((one, other) => other[1] - one[1]);
  const rows = all.map(([code, count]) => ({ name: code, text: number(count), share: count / all[0][1] }));
  return all.length > 0 && [h("h3", {}, name), shares(rows)];
}

const policy = ({ words, categories }) => [
  words.length > 0 && note(`Blocked words: ${words.join(", ")}`),
  categories.length > 0 && note(`Blocked categories: ${categories.join(", ")}`),
];

const rejectRow = ({ file, line, item_id, code, reason }) => [
  h("strong", { class: "one" }, code),
  h("span", { class: "soft one figures" }, `${file}, line ${line}${item_id ? `, ${item_id}` : ""}`),
  h("span", { class: "message", title: reason }, reason),
];

const hiddenRow = ({ item_id, title, reason }) => [
  h("strong", { class: "one" }, title || item_id),
  h("span", { class: "soft one" }, item_id),
  h("span", { class: "message" }, reason),
];

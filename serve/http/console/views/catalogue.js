// The catalogue: what the last feed brought, what was rejected and why, and what content review hides.

import { call } from "../api.js";
import { announce, fill, h, note, problem, shares } from "../dom.js";
import { number, plural } from "../format.js";
import { VirtualList } from "../virtual.js";

export const title = "Catalogue", scope = "admin";
const PAGE = 200;

export function start(root, signal) {
  const rejects = paged("catalogue", "rejects", ["No row was rejected", "Rejected rows"], rejectRow, ingested, signal);
  const hidden = paged("review", "hidden", ["Nothing is hidden", "Hidden by review"], hiddenRow, blocked, signal);
  root.append(rejects.above, hidden.section, rejects.section); // the report first, the longest list last
  return () => {
    rejects.show();
    hidden.show();
  };
}

/**
 * A long list that comes page by page, as it is looked at: `name` of what `path` answers, in rows that `draw` fills.
 * `headings` are of none and of some; `said(answer)` fills the element `above`.
 */
function paged(path, name, headings, draw, said, signal) {
  const above = h("div", {}), heading = h("h2", {}, "…"), list = h("ul", { class: "rows" });
  let found = [], asked = new Set();
  const rows = new VirtualList(list, (place) => {
    if (!found[place]) load(place - (place % PAGE));
    return h("article", {}, found[place] ? draw(found[place]) : h("span", { class: "soft" }, "…"));
  }, signal);

  async function page(from) {
    asked.add(from);
    const answer = await call(`${path}?offset=${from}&limit=${PAGE}`, { signal });
    answer[name].forEach((one, place) => (found[from + place] = one));
    return answer;
  }

  async function load(from) {
    if (asked.has(from)) return;
    try {
      await page(from);
      rows.refresh(from, from + PAGE);
    } catch (error) {
      if (!signal.aborted) list.before(problem(error));
    }
  }

  function show() {
    found = [];
    asked = new Set();
    fill(above, signal, async () => {
      const answer = await page(0), { total } = answer;
      heading.textContent = total ? `${headings[1]} (${number(total)})` : headings[0];
      rows.show(total);
      return said(answer);
    });
  }
  return { above, section: h("section", { "aria-label": headings[1] }, heading, above, list), show };
}

function ingested({ report }) {
  announce(`${plural(report.read, "row")} read, ${number(report.kept)} kept, ${number(report.rejected)} rejected`);
  return [
    note(`${report.feed}, ${report.format}, version ${report.version}`),
    h("ul", { role: "list", class: "tiles" }, ["read", "kept", "rejected"].map((name) =>
      h("li", { class: "panel" }, h("strong", {}, number(report[name])), name))),
    counted("Why rows were rejected", report.rejects),
    counted("What was repaired", report.repaired),
    counted("Live changes folded in", report.changed),
    report.ignored_columns.length > 0 && note(`Columns not used: ${report.ignored_columns.join(", ")}`),
  ];
}

function counted(name, counts) {
  const all = Object.entries(counts).sort((one, other) => other[1] - one[1]);
  const rows = all.map(([code, count]) => ({ name: code, text: number(count), share: count / all[0][1] }));
  return all.length > 0 && [h("h3", {}, name), shares(rows)];
}

const blocked = ({ words, categories }) => [
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

// Compare: send one request to two releases and show which items moved or appear in one only.

import { call, remember } from "../api.js";
import { link, moved, moves, picture } from "../cards.js";
import { announce, fill, h, latest, note } from "../dom.js";
import { number, plural, price } from "../format.js";
import { changed, go, href } from "../router.js";
import { user, userFields } from "../state.js";

export const title = "Compare", scope = "admin";
const K = 30;
const REQUESTS = { search: "Text search", recommend: "Recommendations", similar: "Similar items" };

export function start(root, signal) {
  const next = latest(signal);
  const form = h("form", { class: "asking panel" }), results = h("section", { class: "versus", "aria-label": "Results" });
  root.append(form, results);
  let releases;

  function fields(params) {
    const kind = params.get("about") ?? "search";
    return [
      h("fieldset", { class: "radios" }, h("legend", { class: "unseen" }, "Request"),
        Object.entries(REQUESTS).map(([value, label]) => h("label", {}, h("input", {
          type: "radio", name: "about", value, checked: value === kind,
          onchange: () => go(changed({ about: value, q: null })),
        }), label))),
      choice("a", "Left", params), choice("b", "Right", params), queryField(kind, params.get("q") ?? ""),
      h("button", { class: "primary" }, "Compare"),
    ];
  }

  const choice = (name, label, params) =>
    h("label", {}, label, h("select", { name }, releases.map(({ release, current }) =>
      h("option", { value: release, selected: release === params.get(name) }, release, current && " (active)"))));

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const params = new URLSearchParams(new FormData(form));
    go(href("compare", params));
    send(params); // also if the address stays the same, as the user may have changed
  });

  async function send(params) {
    const now = next(), kind = params.get("about") ?? "search", q = params.get("q");
    if (kind !== "recommend" && !q) {
      results.replaceChildren(note("Send the same request to two releases and compare the results."));
      return;
    }
    const request = {
      search: { text: q, k: K },
      recommend: { ...userFields(), k: K },
      similar: { item_ids: [q], k: K },
    }[kind];
    await fill(results, now, async () => {
      const body = { releases: [params.get("a"), params.get("b")], [kind]: request };
      const { responses } = await call("compare", { signal: now, body });
      const [left, right] = responses.map(({ items }) => remember(items));
      const change = moves(left, right), common = [...change.values()].filter((by) => by !== undefined);
      const summary = `${common.length} of ${left.length} items in both, ${common.filter((by) => by === 0).length} of ` +
        `them at the same position; ${left.length - common.length} only on the left, ` +
        `${right.length - common.length} only on the right.`;
      announce(summary);
      return [h("p", { class: "summary" }, summary), column(responses[0], moves(right, left)), column(responses[1], change)];
    });
  }

  return async (address) => {
    const params = new URLSearchParams(address);
    await fill(form, signal, async () => {
      releases ??= (await call("releases", { signal })).releases;
      const [first, second = first] = releases.map(({ release }) => release);
      if (!params.get("a")) params.set("a", second);
      if (!params.get("b")) params.set("b", first);
      return fields(params);
    });
    if (releases) send(params);
  };
}

/** The input of the request; for recommendations, which user they are for. */
function queryField(kind, q) {
  if (kind === "recommend") {
    const name = `${user.id ?? "New user"} with ${plural(user.simulated.length, "simulated event")}, chosen in the view `;
    return note(name, h("a", { href: href("user") }, "User"));
  }
  const [label, maxlength] = kind === "search" ? ["Text", 2000] : ["Item id", 512];
  return h("label", {}, label, h("input", { name: "q", value: q, required: true, maxlength }));
}

function column({ release, ranked_by: origin, items }, change) {
  const row = (item, position) => h("li", { class: change.get(item.item_id) === undefined ? "alone" : null },
    h("span", { class: "soft figures" }, number(position + 1)),
    picture(item, 160),
    h("span", {}, link(item, changed({ item: item.item_id })), h("span", { class: "soft" }, price(item))),
    moved(change.get(item.item_id), "only here"));
  return h("div", {}, h("h2", { class: "release" }, release), note(`ranked by the ${origin}`),
    h("ol", { role: "list", class: "ranking" }, items.map(row)));
}

// Two releases side by side: the same question to both, with what moved or is in one alone.

import { call, remember } from "../api.js";
import { link, moved, moves, picture } from "../cards.js";
import { announce, fill, h, latest, note } from "../dom.js";
import { number, plural, price } from "../format.js";
import { changed, go, href } from "../router.js";
import { asShopper, shopper } from "../state.js";

export const title = "Compare", scope = "admin";
const K = 30;
const ABOUT = { search: "Words", recommend: "The shopper", similar: "Like an item" };

export function start(root, signal) {
  const next = latest(signal);
  const form = h("form", { class: "asking panel" }), shown = h("section", { class: "versus", "aria-label": "Answers" });
  root.append(form, shown);
  let releases;

  function fields(params) {
    const about = params.get("about") ?? "search";
    return [
      h("fieldset", { class: "radios" }, h("legend", { class: "unseen" }, "What is asked"),
        Object.entries(ABOUT).map(([value, label]) => h("label", {}, h("input", {
          type: "radio", name: "about", value, checked: value === about,
          onchange: () => go(changed({ about: value, q: null })),
        }), label))),
      choice("a", "Left", params), choice("b", "Right", params), question(about, params.get("q") ?? ""),
      h("button", { class: "primary" }, "Compare"),
    ];
  }

  const choice = (name, label, params) =>
    h("label", {}, label, h("select", { name }, releases.map(({ release, current }) =>
      h("option", { value: release, selected: release === params.get(name) }, release, current && " (serving)"))));

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const params = new URLSearchParams(new FormData(form));
    go(href("compare", params));
    ask(params); // also where the address stays, as the shopper may have changed
  });

  async function ask(params) {
    const now = next(), about = params.get("about") ?? "search", q = params.get("q");
    if (about !== "recommend" && !q) {
      shown.replaceChildren(note("Ask both releases the same, and see what changes."));
      return;
    }
    const asked = {
      search: { text: q, k: K },
      recommend: { ...asShopper(), k: K },
      similar: { item_ids: [q], k: K },
    }[about];
    await fill(shown, now, async () => {
      const body = { releases: [params.get("a"), params.get("b")], [about]: asked };
      const { answers } = await call("compare", { signal: now, body });
      const [one, other] = answers.map(({ items }) => remember(items));
      const change = moves(one, other), common = [...change.values()].filter((by) => by !== undefined);
      const summary = `${common.length} of ${one.length} in both, ${common.filter((by) => by === 0).length} of them ` +
        `at the same place; ${one.length - common.length} only on the left, ` +
        `${other.length - common.length} only on the right.`;
      announce(summary);
      return [h("p", { class: "summary" }, summary), column(answers[0], moves(other, one)), column(answers[1], change)];
    });
  }

  return async (given) => {
    const params = new URLSearchParams(given);
    await fill(form, signal, async () => {
      releases ??= (await call("releases", { signal })).releases;
      const [first, second = first] = releases.map(({ release }) => release);
      if (!params.get("a")) params.set("a", second);
      if (!params.get("b")) params.set("b", first);
      return fields(params);
    });
    if (releases) ask(params);
  };
}

/** The field of what is asked; of the shopper, who it is. */
function question(about, q) {
  if (about === "recommend") {
    const who = `${shopper.id ?? "Somebody new"} with ${plural(shopper.tried.length, "act")} tried out, as under `;
    return note(who, h("a", { href: href("shopper") }, "Shopper"));
  }
  const [label, maxlength] = about === "search" ? ["Words", 2000] : ["Item id", 512];
  return h("label", {}, label, h("input", { name: "q", value: q, required: true, maxlength }));
}

function column({ release, ranked_by: by, items }, change) {
  const row = (item, place) => h("li", { class: change.get(item.item_id) === undefined ? "alone" : null },
    h("span", { class: "soft figures" }, number(place + 1)),
    picture(item, 160),
    h("span", {}, link(item, changed({ item: item.item_id })), h("span", { class: "soft" }, price(item))),
    moved(change.get(item.item_id), "only here"));
  return h("div", {}, h("h2", { class: "release" }, release), note(`ranked by the ${by}`),
    h("ol", { role: "list", class: "ranking" }, items.map(row)));
}

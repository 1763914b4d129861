// Two releases side by side: the same question to both, with what moved or is in one alone.

import { call, remember } from "../api.js";
import { link, moved, moves, picture } from "../cards.js";
import { announce, fill, h, latest } from "../dom.js";
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
    const choice = (name, label) => h("label", {}, label, h("select", { name }, releases.map(({ release, current }) =>
      h("option", { value: release, selected: release === params.get(name) }, release, current && " (serving)"))));
    const radios = Object.entries(ABOUT).map(([value, label]) => h("label", {}, h("input", { type: "radio", name: "about", value, checked: value === about,
      onchange: () => go(changed({ about: value, q: null })) }), label));
    form.replaceChildren(h("fieldset", { class: "radios" }, h("legend", { class: "unseen" }, "What is asked"), radios), choice("a", "Left"), choice("b", "Right"),
      about === "recommend"
        ? h("p", { class: "soft" }, `${shopper.id ?? "Somebody new"} with ${plural(shopper.tried.length, "act")} tried out, as under `, h("a", { href: href("shopper") }, "Shopper"))
        : h("label", {}, about === "search" ? "Words" : "Item id", h("input", { name: "q", value: params.get("q") ?? "", required: true, maxlength: about === "search" ? 2000 : 512 })),
      h("button", { class: "primary" }, "Compare"));
  }
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    go(href("compare", new FormData(form)));
    if (form.elements.about.value === "recommend") ask(new URLSearchParams(new FormData(form)));
  });

  async function ask(params) {
    const now = next(), about = params.get("about") ?? "search", q = params.get("q");
    if (about !== "recommend" && !q) return shown.replaceChildren(h("p", { class: "soft" }, "Ask both releases the same, and see what changes."));
    const question = { search: { text: q, k: K }, recommend: { ...asShopper(), k: K }, similar: { item_ids: [q], k: K } }[about];
    await fill(shown, now, async () => {
      const { answers } = await call("compare", { signal: now, body: { releases: [params.get("a"), params.get("b")], [about]: question } });
      const [one, other] = answers.map(({ items }) => remember(items));
      const common = moves(one, other), both = [...common.values()].filter((by) => by !== undefined).length;
      const same = [...common.values()].filter((by) => by === 0).length;
      const summary = `${both} of ${one.length} in both, ${same} of them at the same place; ${one.length - both} only on the left, ${other.length - both} only on the right.`;
      announce(summary);
      return [h("p", { class: "summary" }, summary), column(answers[0], moves(other, one)), column(answers[1], common)];
    });
  }

  return async (given) => {
    const params = new URLSearchParams(given);
    await fill(form, signal, async () => {
      releases ??= (await call("releases", { signal })).releases;
      const [first, second = first] = releases.map(({ release }) => release);
      if (!params.get("a")) params.set("a", second);
      if (!params.get("b")) params.set("b", first);
      fields(params);
      return [...form.children];
    });
    if (releases) ask(params);
  };
}

const column = ({ release, ranked_by, items }, change) =>
  h("div", {}, h("h2", { class: "release" }, release), h("p", { class: "soft" }, `ranked by the ${ranked_by}`),
    h("ol", { role: "list", class: "ranking" }, items.map((item, place) => h("li", { class: change.get(item.item_id) === undefined ? "alone" : null },
      h("span", { class: "soft figures" }, number(place + 1)), picture(item, 160),
      h("span", {}, link(item, changed({ item: item.item_id })), h("span", { class: "soft" }, price(item))),
      moved(change.get(item.item_id), "only here")))));

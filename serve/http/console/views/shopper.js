// A shopper: who it is, what was done, and recommendations with their reasons, which follow each click.

import { call, may, recommended, remember } from "../api.js";
import { button, card, DONE, moved, moves, nameOf, picture } from "../cards.js";
import { announce, fill, h, iconButton, latest, problem } from "../dom.js";
import { number, plural, time } from "../format.js";
import { changed, go } from "../router.js";
import { asShopper, choose, onShopper, shopper, takeBack, tryOut } from "../state.js";
import { VirtualList } from "../virtual.js";

export const title = "Shopper", scope = "query";
const K = 60, LATEST = 50, SHOWN = 20;

export function start(root, signal) {
  const next = latest(signal);
  const id = h("input", {
    id: "shopper", autocomplete: "off", spellcheck: "false", maxlength: 512, placeholder: "Shopper id",
  });
  const recent = h("ul", { role: "list", class: "recent" });
  const done = h("ol", { role: "list", class: "done", tabindex: 0, "aria-label": "History, the latest first" });
  const diversity = h("input", {
    type: "range", min: 0, max: 1, step: 0.1,
    onchange: () => go(changed({ diversity: diversity.value === "0" ? null : diversity.value })),
  });
  const heading = h("h2", {}, "…"), told = h("p", { class: "soft" });
  const list = h("ul", { class: "cards wide" });
  const found = h("section", { class: "found", "aria-label": "Recommendations" },
    h("header", {}, h("div", {}, heading, told), h("label", { class: "many" }, "Diversity ", diversity)),
    h("div", { class: "room" }, list));
  root.append(h("div", { class: "beside" },
    h("aside", { class: "who", "aria-label": "Shopper" },
      h("form", { class: "asking", onsubmit: (event) => {
        event.preventDefault();
        choose(id.value.trim() || null);
      } }, h("label", { for: "shopper", class: "unseen" }, "Shopper id"), id,
      h("button", { class: "primary" }, "Pick")),
      h("details", { open: matchMedia("(min-width: 60rem)").matches }, h("summary", {}, "Lately active"), recent),
      h("h2", {}, "History"), done),
    found));

  let items = [], before = [], asked, change = new Map(); // `asked` is for whom the items are
  const cards = new VirtualList(list, (place) => {
    const item = items[place];
    return card(item, button(item, "Click", () => tryOut(item.item_id, "click")), {
      actions: [
        iconButton("cart", `Put ${item.title} into the cart`, () => tryOut(item.item_id, "cart")),
        iconButton("details", `Details of ${item.title}`, () => go(changed({ item: item.item_id }))),
      ],
      badge: before.length ? moved(change.get(item.item_id), "new") : null,
      reasons: item.reasons,
    });
  }, signal);

  const pick = (label, userId, said) => h("li", {},
    h("button", { type: "button", "aria-pressed": String(shopper.id === userId), onclick: () => choose(userId) },
      h("span", {}, label), h("span", { class: "soft figures" }, said)));
  let users;
  async function people() {
    if (may("admin")) users ??= (await call(`users?k=${LATEST}`, { signal })).users;
    return [
      pick("Somebody new", null, "by clicks alone"),
      ...(users ?? []).map(({ user_id: id, events, last }) => pick(id, id, `${plural(events, "event")}, ${time(last)}`)),
      !users && h("li", { class: "soft" }, "The list needs a key with the scope admin."),
    ];
  }

  async function history(now) {
    const path = shopper.id && `users/${encodeURIComponent(shopper.id)}`;
    const known = path && may("admin") ? (await call(path, { signal: now })).history : [];
    const acts = known.filter(({ type }) => type !== "impression").slice(0, SHOWN);
    if (!acts.length && !shopper.tried.length) return h("li", { class: "soft" }, "Nothing yet: click on items.");
    return [...shopper.tried.toReversed().map((event) => line(event, true)), ...acts.map((event) => line(event))];
  }

  function line(event, tried = false) {
    const act = DONE[event.type] ?? event.type;
    return h("li", { class: tried && "tried" },
      picture({ item_id: event.item_id, image: true }, 160),
      h("span", {}, nameOf(event.item_id),
        h("span", { class: "soft" }, act, ", ", tried ? "tried out" : time(event.timestamp))),
      tried && iconButton("close", `Take back: ${act} ${event.item_id}`, () => takeBack(event)));
  }

  let params = new URLSearchParams();
  async function ask() {
    const now = next();
    id.value = shopper.id ?? "";
    heading.textContent = shopper.id ? `For ${shopper.id}` : "For somebody new";
    fill(recent, signal, people);
    fill(done, now, () => history(now));
    found.setAttribute("aria-busy", "true");
    try {
      const wanted = { k: K, explain: true, diversity: Number(params.get("diversity") ?? 0) };
      const answer = await recommended({ ...asShopper(), ...wanted }, now);
      before = shopper.id === asked ? items : [];
      asked = shopper.id;
      items = remember(answer.items);
      change = moves(before, items);
      told.textContent = `Ranked by the ${answer.ranked_by} of ${answer.release}, ${number(answer.took_ms)} ms. ` +
        "Clicks are tried out, not stored.";
      announce(`${plural(items.length, "recommendation")}, first ${items[0]?.title ?? "none"}`);
      found.querySelector(".problem")?.remove();
      cards.show(items.length);
    } catch (error) {
      if (now.aborted) return;
      items = [];
      cards.show(0);
      found.querySelector(".problem")?.remove();
      found.append(problem(error));
    }
    if (!now.aborted) found.removeAttribute("aria-busy");
  }
  onShopper(ask, signal);
  return (given) => {
    params = given;
    diversity.value = params.get("diversity") ?? 0;
    ask();
  };
}

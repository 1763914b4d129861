// User: the history of a user, and recommendations with reasons, which change with each simulated event.

import { call, may, recommend, remember } from "../api.js";
import { button, card, EVENTS, moved, moves, nameOf, picture } from "../cards.js";
import { announce, fill, h, iconButton, latest, problem } from "../dom.js";
import { number, plural, time } from "../format.js";
import { changed, go } from "../router.js";
import { chooseUser, onUserChange, simulate, undo, user, userFields } from "../state.js";
import { VirtualList } from "../virtual.js";

export const title = "User", scope = "query";
const K = 60, MAX_USERS = 50, MAX_EVENTS = 20;

export function start(root, signal) {
  const next = latest(signal);
  const id = h("input", {
    id: "user-id", autocomplete: "off", spellcheck: "false", maxlength: 512, placeholder: "User id",
  });
  const recent = h("ul", { role: "list", class: "recent" });
  const history = h("ol", { role: "list", class: "history", tabindex: 0, "aria-label": "History, the latest first" });
  const diversity = h("input", {
    type: "range", min: 0, max: 1, step: 0.1,
    onchange: () => go(changed({ diversity: diversity.value === "0" ? null : diversity.value })),
  });
  const heading = h("h2", {}, "…"), summary = h("p", { class: "soft" });
  const list = h("ul", { class: "cards wide" });
  const results = h("section", { class: "found", "aria-label": "Recommendations" },
    h("header", {}, h("div", {}, heading, summary), h("label", { class: "many" }, "Diversity ", diversity)),
    h("div", { class: "room" }, list));
  root.append(h("div", { class: "beside" },
    h("aside", { class: "user-panel", "aria-label": "User" },
      h("form", { class: "asking", onsubmit: (event) => {
        event.preventDefault();
        chooseUser(id.value.trim() || null);
      } }, h("label", { for: "user-id", class: "unseen" }, "User id"), id,
      h("button", { class: "primary" }, "Show")),
      h("details", { open: matchMedia("(min-width: 60rem)").matches }, h("summary", {}, "Recently active"), recent),
      h("h2", {}, "History"), history),
    results));

  let items = [], before = [], shownUser, change = new Map(); // `items` are for `shownUser`
  const cards = new VirtualList(list, (position) => {
    const item = items[position];
    return card(item, button(item, "Click", () => simulate(item.item_id, "click")), {
      actions: [
        iconButton("cart", `Add ${item.title} to the cart`, () => simulate(item.item_id, "cart")),
        iconButton("details", `Details of ${item.title}`, () => go(changed({ item: item.item_id }))),
      ],
      badge: before.length ? moved(change.get(item.item_id), "new") : null,
      reasons: item.reasons,
    });
  }, signal);

  const choice = (label, userId, details) => h("li", {},
    h("button", { type: "button", "aria-pressed": String(user.id === userId), onclick: () => chooseUser(userId) },
      h("span", {}, label), h("span", { class: "soft figures" }, details)));
  let users;
  async function userList() {
    if (may("admin")) users ??= (await call(`users?k=${MAX_USERS}`, { signal })).users;
    return [
      choice("New user", null, "simulated events only"),
      ...(users ?? []).map(({ user_id, events, last }) =>
        choice(user_id, user_id, `${plural(events, "event")}, ${time(last)}`)),
      !users && h("li", { class: "soft" }, "The list of users needs a key with the scope admin."),
    ];
  }

  async function historyLines(now) {
    const path = user.id && `users/${encodeURIComponent(user.id)}`;
    const stored = path && may("admin") ? (await call(path, { signal: now })).history : [];
    const events = stored.filter(({ type }) => type !== "impression").slice(0, MAX_EVENTS);
    if (!events.length && !user.simulated.length) return h("li", { class: "soft" }, "No events yet: click on items.");
    return [...user.simulated.toReversed().map((event) => line(event, true)), ...events.map((event) => line(event))];
  }

  function line(event, simulated = false) {
    const name = EVENTS[event.type] ?? event.type;
    return h("li", { class: simulated && "simulated" },
      picture({ item_id: event.item_id, image: true }, 160),
      h("span", {}, nameOf(event.item_id),
        h("span", { class: "soft" }, name, ", ", simulated ? "simulated" : time(event.timestamp))),
      simulated && iconButton("close", `Undo: ${name} ${event.item_id}`, () => undo(event)));
  }

  let params = new URLSearchParams();
  async function update() {
    const now = next();
    id.value = user.id ?? "";
    heading.textContent = user.id ? `Recommendations for ${user.id}` : "Recommendations for a new user";
    fill(recent, signal, userList);
    fill(history, now, () => historyLines(now));
    results.setAttribute("aria-busy", "true");
    try {
      const options = { k: K, explain: true, diversity: Number(params.get("diversity") ?? 0) };
      const response = await recommend({ ...userFields(), ...options }, now);
      before = shownUser === user.id ? items : [];
      shownUser = user.id;
      items = remember(response.items);
      change = moves(before, items);
      summary.textContent = `Ranked by the ${response.ranked_by} of ${response.release} in ` +
        `${number(response.took_ms)} ms. Clicks are simulated and not stored. Reasons are in percent of all reasons.`;
      announce(`${plural(items.length, "recommendation")}, first ${items[0]?.title ?? "none"}`);
      results.querySelector(".problem")?.remove();
      cards.show(items.length);
    } catch (error) {
      if (now.aborted) return;
      items = [];
      cards.show(0);
      results.querySelector(".problem")?.remove();
      results.append(problem(error));
    }
    if (!now.aborted) results.removeAttribute("aria-busy");
  }
  onUserChange(update, signal);
  return (address) => {
    params = address;
    diversity.value = params.get("diversity") ?? 0;
    update();
  };
}

// The console: the open view, the scopes of the key, and keyboard shortcuts.

import { enter, forgetKey, may, notReady } from "./api.js";
import { $, h, icon, problem } from "./dom.js";
import { showItem } from "./item.js";
import { go, href, current } from "./router.js";
import * as activity from "./views/activity.js";
import * as catalogue from "./views/catalogue.js";
import * as compare from "./views/compare.js";
import * as releases from "./views/releases.js";
import * as search from "./views/search.js";
import * as user from "./views/user.js";

const VIEWS = { search, user, compare, releases, catalogue, activity };
const main = $("#main");
let open;

function route() {
  const { view, params } = current();
  const name = Object.hasOwn(VIEWS, view) ? view : "search";
  if (open?.name !== name) show(name);
  const item = params.get("item");
  params.delete("item");
  if (open.shown !== params.toString()) {
    open.shown = params.toString();
    open.update(params);
  }
  showItem(item);
}

const otherKey = h("p", {}, h("button", { type: "button", onclick: () => {
  forgetKey();
  location.reload();
} }, "Use another key"));

function show(name) {
  const { title, scope, start } = VIEWS[name], first = !open;
  open?.leaving.abort();
  main.replaceChildren(h("h1", { tabindex: -1, class: name === "search" ? "unseen" : null }, title));
  main.className = name;
  open = { name, leaving: new AbortController() };
  open.update = may(scope)
    ? start(main, open.leaving.signal)
    : () => main.append(problem({ message: `This view needs a key with the scope ${scope}.` }), otherKey);
  document.title = `${title} · Vetrina`;
  for (const link of $("#views").querySelectorAll("a")) {
    link.toggleAttribute("aria-current", link.dataset.view === name);
    if (link.dataset.view === name) link.setAttribute("aria-current", "page");
  }
  scrollTo({ top: 0, behavior: "instant" });
  if (!first) $("h1").focus({ preventScroll: true });
}

function onKey(event) {
  const typing = event.target.closest("input, select, textarea, dialog");
  if (event.key !== "/" || typing || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  if (current().view !== "search") go(href("search"));
  setTimeout(() => $("#query")?.focus()); // once the view is there
}

const tryAgain = () => h("p", {}, h("button", { type: "button", onclick: begin }, "Try again"));

/** Shown while the service has no release: why, and what to run. */
const noRelease = (error) => h("section", { class: "panel" },
  h("h1", {}, "No release to serve"), problem(error),
  h("p", {}, "Build a release from a product feed. The service loads it within a second:"),
  h("pre", {}, h("code", {}, "vetrina build FEED")),
  h("p", {}, "Or try the demo shop, which needs no feed:"),
  h("pre", {}, h("code", {}, "vetrina demo")), tryAgain());

async function begin() {
  try {
    const missing = await notReady();
    if (missing) {
      main.replaceChildren(noRelease(missing));
      return;
    }
    await enter();
  } catch (error) {
    main.replaceChildren(problem(error), tryAgain());
    return;
  }
  $("#views").replaceChildren(...Object.entries(VIEWS).map(([name, { title, scope }]) =>
    h("li", {}, h("a", { href: href(name), "data-view": name }, icon(name), title,
      !may(scope) && h("small", {}, ` needs ${scope}`)))));
  addEventListener("hashchange", route);
  document.addEventListener("keydown", onKey);
  route();
}

$("#skip").addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});
begin();

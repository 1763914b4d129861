// Build elements from plain values, where text always stays text; and the parts that all views share.

export const $ = (selector) => document.querySelector(selector);

/** An element; functions are listeners (`onclick`), true is an attribute without a value, false and null are none. */
export const h = (tag, props, ...children) => filled(document.createElement(tag), props, children);

export const svg = (tag, props, ...children) =>
  filled(document.createElementNS("http://www.w3.org/2000/svg", tag), props, children);

function filled(element, props, children) {
  for (const [name, value] of Object.entries(props ?? {})) {
    if (typeof value === "function") element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children.flat(3).filter((child) => child != null && child !== false));
  return element;
}

const ICONS = {
  search: "M11 4a7 7 0 1 1 0 14 7 7 0 0 1 0-14zM16.2 16.2 21 21",
  user: "M12 4a4 4 0 1 1 0 8 4 4 0 0 1 0-8zM4 21c.6-4.2 3.7-6.4 8-6.4s7.4 2.2 8 6.4",
  compare: "M4 5h6v14H4zM14 5h6v14h-6z",
  releases: "M12 3l9 5-9 5-9-5zM3 12.5l9 5 9-5M3 17l9 5 9-5",
  catalogue: "M4 6h16M4 12h16M4 18h10",
  activity: "M3 13h4l3-8 4 14 3-6h4",
  camera: "M4 8h3l2-3h6l2 3h3v11H4zM12 10a3.2 3.2 0 1 1 0 6.4A3.2 3.2 0 0 1 12 10z",
  more: "M12 5v14M5 12h14",
  less: "M5 12h14",
  close: "M6 6l12 12M18 6L6 18",
  cart: "M3 4h3l2.4 11h9.2L20 7.5H7M9.5 19.2v.1M16.5 19.2v.1",
  details: "M12 11v6M12 7v.1M12 3a9 9 0 1 1 0 18 9 9 0 0 1 0-18z",
  filters: "M4 7h16M7 12h10M10 17h4",
};

export const icon = (name) =>
  svg("svg", { class: "icon", viewBox: "0 0 24 24", "aria-hidden": "true" }, svg("path", { d: ICONS[name] }));

/** A round button with an icon and an accessible name. */
export const iconButton = (name, label, onclick, props) =>
  h("button", { type: "button", class: "round", "aria-label": label, title: label, onclick, ...props }, icon(name));

export const note = (...text) => h("p", { class: "soft" }, text);

export const badge = (text, kind = "") => h("span", { class: `badge ${kind}` }, text);

/** A list of names with values and bars: rows are {name, text, share, negative}, shares from 0 to 1. */
export const shares = (rows, kind = "") =>
  h("ul", { role: "list", class: `shares ${kind}` }, rows.map(({ name, text, share, negative }) =>
    h("li", {}, h("span", { class: "one" }, name), h("span", { class: "figures" }, text), bar(share, negative))));

/** A bar of a share from 0 to 1; `negative` shows it in the colour of problems. */
export function bar(share, negative = false) {
  const element = h("span", { class: negative ? "bar negative" : "bar" });
  element.style.setProperty("--share", share);
  return element;
}

/** Announce a text to screen readers. */
export function announce(text) {
  $("#status").textContent = text;
}

/** An error in the words of the service. */
export const problem = (error) => h("p", { class: "problem", role: "alert" }, error.message);

/** Replace the content of `host` by what `work` resolves to, or its error; until then the old content is dimmed. */
export async function fill(host, signal, work) {
  host.setAttribute("aria-busy", "true");
  let content;
  try {
    content = await work();
  } catch (error) {
    content = problem(error);
  }
  if (signal.aborted) return;
  host.removeAttribute("aria-busy");
  host.replaceChildren(...[content].flat(4).filter(Boolean));
}

/** Signals for one request at a time: each call aborts the request before, and `signal` aborts all. */
export function latest(signal) {
  let last;
  return () => {
    last?.abort();
    last = new AbortController();
    return AbortSignal.any([last.signal, signal]);
  };
}

/** Ask in a dialog. Resolves to null if it was cancelled, else to the text of the input that `label` names. */
export function ask({ title, text, yes, label = "" }) {
  const dialog = $("#question"), input = $("#question-input");
  $("#question-title").textContent = title;
  $("#question-text").textContent = text;
  $("#question-yes").textContent = yes;
  $("#question-label").hidden = !label;
  input.required = Boolean(label);
  input.value = dialog.returnValue = "";
  $("#question-no").onclick = () => dialog.close();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue ? input.value : null), { once: true });
    dialog.showModal();
    (label ? input : $("#question-no")).focus();
  });
}

// Suggestions below a text field, as a combobox with a listbox.

import { call } from "./api.js";
import { h, latest } from "./dom.js";

const PAUSE = 120; // ms without typing before suggestions are requested

/** Create the list for `input`; calls `chosen` when the input holds the picked suggestion. */
export function suggestions(input, chosen, signal) {
  const list = h("ul", { role: "listbox", id: "suggestions", "aria-label": "Suggestions", hidden: true });
  const next = latest(signal);
  let timer, active = -1;
  const combobox = {
    role: "combobox", autocomplete: "off",
    "aria-label": "Search", "aria-autocomplete": "list", "aria-controls": list.id, "aria-expanded": "false",
  };
  for (const [name, value] of Object.entries(combobox)) input.setAttribute(name, value);

  function show(texts) {
    active = -1;
    input.removeAttribute("aria-activedescendant");
    list.replaceChildren(...texts.map((text, position) => h("li", {
      role: "option", id: `suggestion-${position}`, "aria-selected": "false",
      onpointerdown: (event) => {
        event.preventDefault(); // keeps the focus in the input
        pick(text);
      },
    }, text)));
    list.hidden = !texts.length;
    input.setAttribute("aria-expanded", String(!list.hidden));
  }

  function close() {
    clearTimeout(timer);
    next();
    show([]);
  }

  function pick(text) {
    input.value = text;
    close();
    chosen();
  }

  function move(by) {
    const options = [...list.children];
    active = (active + by + options.length + 1) % (options.length + 1); // the position after the last is the input itself
    if (active < 0) active = options.length;
    options.forEach((option, position) => option.setAttribute("aria-selected", String(position === active)));
    if (options[active]) input.setAttribute("aria-activedescendant", options[active].id);
    else input.removeAttribute("aria-activedescendant");
  }

  input.addEventListener("input", () => {
    clearTimeout(timer);
    const now = next(), text = input.value.trim();
    if (!text) return show([]);
    timer = setTimeout(async () => {
      try {
        show((await call(`suggest?q=${encodeURIComponent(text.slice(0, 200))}`, { signal: now })).suggestions);
      } catch {
        if (!now.aborted) show([]); // the search will show the error
      }
    }, PAUSE);
  });
  input.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && !list.hidden) close();
    else if (event.key === "ArrowDown" && !list.hidden) move(1);
    else if (event.key === "ArrowUp" && !list.hidden) move(-1);
    else if (event.key === "Enter" && list.children[active]) pick(list.children[active].textContent);
    else {
      if (event.key === "Enter") close();
      return;
    }
    event.preventDefault();
  });
  input.addEventListener("blur", close);
  return list;
}

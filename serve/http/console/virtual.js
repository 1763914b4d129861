// A long list of which only what is seen is in the document.

const BEYOND = 2; // rows drawn above and below what is seen

/**
 * A list in the page's flow, in as many columns as its CSS grid has. All rows get the height of the first.
 * Arrow keys, Home and End go from item to item, also to what is not drawn yet; screen readers hear place and size.
 */
export class VirtualList {
  #host; #draw; #count = 0; #drawn = new Map(); #height = 0; #width = 0; #place = 0;

  /** `host` is a `ul`, `draw(place)` makes what an item holds, `signal` ends it. */
  constructor(host, draw, signal) {
    this.#host = host;
    this.#draw = draw;
    host.setAttribute("role", "list");
    host.tabIndex = -1;
    host.addEventListener("keydown", (event) => this.#onKey(event));
    addEventListener("scroll", () => this.#update(), { signal, passive: true });
    addEventListener("resize", () => this.#update(), { signal });
    const observer = new ResizeObserver(() => {
      if (host.clientWidth === this.#width) return;
      this.#height = 0;
      this.#update();
    });
    observer.observe(host);
    signal.addEventListener("abort", () => observer.disconnect());
  }

  /** Show so many items, drawn anew. */
  show(count) {
    const focused = this.#host.contains(document.activeElement);
    this.#count = count;
    this.#height = this.#place = 0;
    this.#clear();
    if (this.#host.getBoundingClientRect().top < 0) this.#host.scrollIntoView();
    this.#update();
    if (focused) this.#host.focus({ preventScroll: true });
  }

  /** Draw those from one place to another again, as more is known of them. */
  refresh(from, to) {
    for (let place = from; place < to; place++) {
      if (this.#drawn.has(place)) this.#drawn.get(place).replaceChildren(this.#draw(place));
    }
  }

  #clear() {
    this.#drawn.clear();
    this.#host.replaceChildren();
  }

  #update() {
    const { columns, pitch } = this.#measure();
    const rows = Math.ceil(this.#count / columns), above = -this.#host.getBoundingClientRect().top;
    const first = Math.max(0, Math.min(rows - 1, Math.floor(above / pitch) - BEYOND));
    const last = Math.max(first, Math.min(rows, Math.ceil((above + innerHeight) / pitch) + BEYOND));
    this.#range(first * columns, Math.min(this.#count, last * columns));
    this.#host.style.paddingTop = `${first * pitch}px`;
    this.#host.style.paddingBottom = `${Math.max(0, rows - last) * pitch}px`;
  }

  /** Columns, and how far one row is below another; draws the first row where that is not known. */
  #measure() {
    const style = getComputedStyle(this.#host);
    const columns = style.gridTemplateColumns.split(" ").length, gap = parseFloat(style.rowGap) || 0;
    if (!this.#height && this.#count) {
      this.#clear();
      this.#host.style.gridAutoRows = "auto";
      this.#range(0, Math.min(this.#count, columns));
      this.#height = Math.max(1, this.#host.firstChild.offsetHeight);
      this.#width = this.#host.clientWidth;
      this.#host.style.gridAutoRows = `${this.#height}px`;
    }
    return { columns, pitch: this.#height + gap || 1 };
  }

  #range(from, to) {
    for (const [place, node] of this.#drawn) {
      if (place >= from && place < to) continue;
      if (node.contains(document.activeElement)) this.#host.focus({ preventScroll: true }); // arrows go on from there
      this.#drawn.delete(place);
      node.remove();
    }
    for (let place = from; place < to; place++) {
      let node = this.#drawn.get(place);
      if (!node) this.#drawn.set(place, (node = this.#item(place)));
      const there = this.#host.children[place - from];
      if (there !== node) this.#host.insertBefore(node, there ?? null);
    }
  }

  #item(place) {
    const node = document.createElement("li");
    node.setAttribute("aria-setsize", this.#count);
    node.setAttribute("aria-posinset", place + 1);
    node.addEventListener("focusin", () => (this.#place = place));
    node.append(this.#draw(place));
    return node;
  }

  #onKey(event) {
    const { columns, pitch } = this.#measure();
    const to = {
      ArrowRight: this.#place + 1,
      ArrowLeft: this.#place - 1,
      ArrowDown: this.#place + columns,
      ArrowUp: this.#place - columns,
      Home: 0,
      End: this.#count - 1,
    }[event.key];
    if (to === undefined || event.altKey || event.ctrlKey || event.metaKey || to < 0 || to >= this.#count) return;
    event.preventDefault();
    if (!this.#drawn.has(to)) {
      const top = scrollY + this.#host.getBoundingClientRect().top + Math.floor(to / columns) * pitch;
      scrollTo({ top: top - innerHeight / 3, behavior: "instant" });
      this.#update();
    }
    const node = this.#drawn.get(to);
    node.tabIndex = -1;
    (node.querySelector("a, button") ?? node).focus();
    node.scrollIntoView({ block: "nearest" });
  }
}

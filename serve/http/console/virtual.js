// A long list of which only the visible rows are in the document.

const MARGIN = 2; // rows drawn above and below the visible ones

/**
 * A list in the page's flow, in as many columns as its CSS grid has. All rows get the height of the first.
 * Arrow keys, Home and End move between items, also to items not drawn yet; screen readers hear position and size.
 */
export class VirtualList {
  #host; #draw; #count = 0; #drawn = new Map(); #height = 0; #width = 0; #position = 0;

  /** `host` is a `ul`, `draw(position)` creates the content of an item, `signal` ends the list. */
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

  /** Show a number of items, all drawn anew. */
  show(count) {
    const focused = this.#host.contains(document.activeElement);
    this.#count = count;
    this.#height = this.#position = 0;
    this.#clear();
    if (this.#host.getBoundingClientRect().top < 0) this.#host.scrollIntoView();
    this.#update();
    if (focused) this.#host.focus({ preventScroll: true });
  }

  /** Redraw the items from one position to another, as their data has arrived. */
  refresh(from, to) {
    for (let position = from; position < to; position++) {
      if (this.#drawn.has(position)) this.#drawn.get(position).replaceChildren(this.#draw(position));
    }
  }

  #clear() {
    this.#drawn.clear();
    this.#host.replaceChildren();
  }

  #update() {
    const { columns, pitch } = this.#measure();
    const rows = Math.ceil(this.#count / columns), above = -this.#host.getBoundingClientRect().top;
    const first = Math.max(0, Math.min(rows - 1, Math.floor(above / pitch) - MARGIN));
    const last = Math.max(first, Math.min(rows, Math.ceil((above + innerHeight) / pitch) + MARGIN));
    this.#range(first * columns, Math.min(this.#count, last * columns));
    this.#host.style.paddingTop = `${first * pitch}px`;
    this.#host.style.paddingBottom = `${Math.max(0, rows - last) * pitch}px`;
  }

  /** The number of columns, and the distance between rows; draws the first row to measure it. */
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
    for (const [position, node] of this.#drawn) {
      if (position >= from && position < to) continue;
      if (node.contains(document.activeElement)) this.#host.focus({ preventScroll: true }); // arrow keys continue from there
      this.#drawn.delete(position);
      node.remove();
    }
    for (let position = from; position < to; position++) {
      let node = this.#drawn.get(position);
      if (!node) this.#drawn.set(position, (node = this.#item(position)));
      const there = this.#host.children[position - from];
      if (there !== node) this.#host.insertBefore(node, there ?? null);
    }
  }

  #item(position) {
    const node = document.createElement("li");
    node.setAttribute("aria-setsize", this.#count);
    node.setAttribute("aria-posinset", position + 1);
    node.addEventListener("focusin", () => (this.#position = position));
    node.append(this.#draw(position));
    return node;
  }

  #onKey(event) {
    const { columns, pitch } = this.#measure();
    const to = {
      ArrowRight: this.#position + 1,
      ArrowLeft: this.#position - 1,
      ArrowDown: this.#position + columns,
      ArrowUp: this.#position - columns,
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

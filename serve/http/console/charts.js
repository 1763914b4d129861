// Charts as inline SVG, drawn to the available width.

import { h, svg } from "./dom.js";
import { number } from "./format.js";

/** A box that redraws its chart when its width changes; `draw(width)` returns an SVG element. */
function fitted(draw) {
  const box = h("div", { class: "chart" });
  let width = 0;
  new ResizeObserver(() => {
    if (box.clientWidth === width || !box.clientWidth) return;
    width = box.clientWidth;
    box.replaceChildren(draw(width));
  }).observe(box);
  return box;
}

const picture = (width, height, label, ...children) =>
  svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label }, children);

const line = (x1, y1, x2, y2, kind) => svg("line", { x1, y1, x2, y2, class: kind });

const text = (x, y, anchor, value) => svg("text", { x, y, "text-anchor": anchor }, value);

/** Bars over time: `values` are {start, count}, one per hour, the earliest first. */
export function bars(values, label) {
  const height = 72, foot = 18, most = Math.max(1, ...values.map(({ count }) => count));
  return fitted((width) => {
    const step = width / values.length, base = height - foot;
    const tick = (position, x, anchor) => text(x, height - 4, anchor, hour(values[position].start));
    return picture(width, height, label,
      values.map(({ start, count }, position) => {
        const tall = count && Math.max(2, (count / most) * (base - 4));
        const box = { x: position * step + 0.5, y: base - tall, width: Math.max(1, step - 1.5), height: tall, rx: 1 };
        return svg("rect", box, svg("title", {}, `${hour(start)}: ${number(count)}`));
      }),
      line(0, base + 0.5, width, base + 0.5),
      tick(0, 0, "start"), tick(values.length / 2, width / 2, "middle"), tick(values.length - 1, width, "end"));
  });
}

const hour = (start) =>
  new Date(start).toLocaleString("en-GB", { weekday: "short", hour: "2-digit", minute: "2-digit" });

/** Recall against latency of all indexes that were measured on all rows, with the chosen one and the target marked. */
export function curve(points, chosen, target) {
  const rows = Math.max(...points.map((point) => point.rows)), all = points.filter((point) => point.rows === rows);
  const lowest = Math.max(0.5, Math.min(...all.map((point) => point.recall10)));
  const shown = all.filter((point) => point.recall10 >= lowest)
    .map((point) => ({ ...point, ms: 1000 / point.queries_per_s }));
  const best = front(shown.filter(({ factory }) => factory === chosen));
  const times = shown.map(({ ms }) => Math.log10(ms)), floor = Math.min(...times) - 0.1;
  const ceiling = Math.max(...times) + 0.1;
  const label = `Recall at 10 against latency of ${shown.length} measurements`;
  return fitted((width) => {
    const height = Math.min(320, Math.max(220, width * 0.45)), left = 44, bottom = 38, right = 12, top = 22;
    const x = (recall) => left + ((recall - lowest) / (1 - lowest || 1)) * (width - left - right);
    const y = (ms) => height - bottom - ((Math.log10(ms) - floor) / (ceiling - floor)) * (height - bottom - top);
    const recalls = Array.from({ length: 6 }, (_, step) => lowest + ((1 - lowest) * step) / 5);
    const dot = (point, r) => svg("circle", { cx: x(point.recall10), cy: y(point.ms), r }, svg("title", {},
      `${point.factory}: recall ${number(point.recall10, 3)}, ${number(point.ms, 3)} ms, ` +
      `${number(point.bytes_per_vector)} bytes per vector`));
    return picture(width, height, label,
      steps(10 ** floor, 10 ** ceiling).map((ms) =>
        [line(left, y(ms), width - right, y(ms)), text(left - 6, y(ms) + 4, "end", String(ms))]),
      recalls.map((recall) => text(x(recall), height - bottom + 16, "middle", number(recall, 2))),
      text(left, 12, "start", "ms per query, log scale"), text(width - right, height - 4, "end", "recall@10"),
      target >= lowest && [line(x(target), top, x(target), height - bottom, "target"),
        text(x(target) - 4, top + 10, "end", `target ${target}`)],
      svg("g", { class: "others" }, shown.filter(({ factory }) => factory !== chosen).map((point) => dot(point, 2))),
      svg("polyline", { points: best.map((point) => `${x(point.recall10)},${y(point.ms)}`).join(" ") }),
      svg("g", { class: "chosen" }, best.map((point) => dot(point, 3.5))));
  });
}

/** 1, 2 and 5 times the powers of ten between two numbers. */
function steps(from, to) {
  const values = [];
  for (let power = Math.floor(Math.log10(from)); 10 ** power <= to; power++) {
    for (const digit of [1, 2, 5]) values.push(Number(`${digit}e${power}`));
  }
  return values.filter((step) => step >= from && step <= to);
}

/** The points that no other point beats in both time and recall, by ascending recall. */
function front(points) {
  const best = [];
  for (const point of points.toSorted((one, other) => other.recall10 - one.recall10 || one.ms - other.ms)) {
    if (!best.length || point.ms < best.at(-1).ms) best.push(point);
  }
  return best.reverse();
}

/** An interval around a mean on an axis from -limit to limit, with zero marked. */
export function interval({ low, mean, high }, limit) {
  return fitted((width) => {
    const x = (value) => width / 2 + (value / (limit || 1)) * (width / 2 - 6);
    return picture(width, 24, `${number(mean, 4)}, from ${number(low, 4)} to ${number(high, 4)}`,
      line(width / 2, 2, width / 2, 22, "target"),
      svg("polyline", { points: `${x(low)},12 ${x(high)},12` }),
      svg("g", { class: "chosen" }, svg("circle", { cx: x(mean), cy: 12, r: 4 })));
  });
}

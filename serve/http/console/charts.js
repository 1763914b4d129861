// Charts as inline SVG, drawn to the width there is.

import { h, svg } from "./dom.js";
import { number } from "./format.js";

/** A box whose chart is drawn anew when its width changes; `draw(width)` gives an SVG element. */
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

const text = (x, y, anchor, value) => svg("text", { x, y, "text-anchor": anchor }, value);

/** Bars over time: `values` are {start, count}, one for each hour, the earliest first. */
export function bars(values, label) {
  const height = 72, foot = 18, most = Math.max(1, ...values.map(({ count }) => count));
  return fitted((width) => {
    const step = width / values.length;
    return picture(width, height, label,
      values.map(({ start, count }, place) => {
        const tall = count && Math.max(2, (count / most) * (height - foot - 4));
        return svg("rect", { x: place * step + 0.5, y: height - foot - tall, width: Math.max(1, step - 1.5), height: tall, rx: 1 },
          svg("title", {}, `${hour(start)}: ${number(count)}`));
      }),
      svg("line", { x1: 0, x2: width, y1: height - foot + 0.5, y2: height - foot + 0.5 }),
      [0, values.length / 2, values.length - 1].map((place, end) =>
        text([0, width / 2, width][end], height - 4, ["start", "middle", "end"][end], hour(values[Math.floor(place)].start))));
  });
}

const hour = (start) => new Date(start).toLocaleString("en-GB", { weekday: "short", hour: "2-digit", minute: "2-digit" });

/** Recall against latency of all indexes that were tried, the chosen one and the target marked. */
export function curve(points, chosen, target) {
  const rows = Math.max(...points.map((point) => point.rows));
  const tried = points.filter((point) => point.rows === rows).map((point) => ({ ...point, ms: 1000 / point.queries_per_s }));
  const best = front(tried.filter(({ factory }) => factory === chosen));
  const lowest = Math.max(0.5, Math.min(...tried.map((point) => point.recall10))), shown = tried.filter((point) => point.recall10 >= lowest);
  const times = shown.map(({ ms }) => Math.log10(ms)), floor = Math.min(...times) - 0.1, ceiling = Math.max(...times) + 0.1;
  const label = `Recall at 10 against latency of ${shown.length} measurements; ${chosen} reaches ${number(best.at(-1)?.recall10 ?? 0, 3)}.`;
  return fitted((width) => {
    const height = Math.min(320, Math.max(220, width * 0.45)), left = 44, bottom = 38, right = 12, top = 22;
    const x = (recall) => left + ((recall - lowest) / (1 - lowest || 1)) * (width - left - right);
    const y = (ms) => height - bottom - ((Math.log10(ms) - floor) / (ceiling - floor)) * (height - bottom - top);
    const recalls = Array.from({ length: 6 }, (_, place) => lowest + ((1 - lowest) * place) / 5);
    const dot = (point, r) => svg("circle", { cx: x(point.recall10), cy: y(point.ms), r },
      svg("title", {}, `${point.factory}: recall ${number(point.recall10, 3)}, ${number(point.ms, 3)} ms, ${number(point.bytes_per_vector)} bytes a vector`));
    return picture(width, height, label,
      steps(10 ** floor, 10 ** ceiling).map((ms) => [svg("line", { x1: left, x2: width - right, y1: y(ms), y2: y(ms) }), text(left - 6, y(ms) + 4, "end", String(ms))]),
      recalls.map((recall) => text(x(recall), height - bottom + 16, "middle", number(recall, 2))),
      text(left, 12, "start", "ms a query, log scale"), text(width - right, height - 4, "end", "recall@10"),
      target >= lowest && [svg("line", { class: "target", x1: x(target), x2: x(target), y1: top, y2: height - bottom }), text(x(target) - 4, top + 10, "end", `target ${target}`)],
      svg("g", { class: "others" }, shown.filter(({ factory }) => factory !== chosen).map((point) => dot(point, 2))),
      best.length > 1 && svg("polyline", { points: best.filter((point) => point.recall10 >= lowest).map((point) => `${x(point.recall10)},${y(point.ms)}`).join(" ") }),
      svg("g", { class: "chosen" }, best.filter((point) => point.recall10 >= lowest).map((point) => dot(point, 3.5))));
  });
}

/** 1, 2 and 5 times the powers of ten between two numbers. */
function steps(from, to) {
  const found = [];
  for (let power = Math.floor(Math.log10(from)); 10 ** power <= to; power++) {
    for (const digit of [1, 2, 5]) found.push(Number(`${digit}e${power}`));
  }
  return found.filter((step) => step >= from && step <= to);
}

/** The points than which none is both faster and better, by rising recall. */
function front(points) {
  const kept = [];
  for (const point of points.toSorted((one, other) => other.recall10 - one.recall10 || one.ms - other.ms)) {
    if (!kept.length || point.ms < kept.at(-1).ms) kept.push(point);
  }
  return kept.reverse();
}

/** An interval around a mean on an axis from -most to most, with zero marked. */
export function interval({ low, mean, high }, most) {
  return fitted((width) => {
    const x = (value) => width / 2 + (value / (most || 1)) * (width / 2 - 6);
    return picture(width, 24, `${number(mean, 4)}, from ${number(low, 4)} to ${number(high, 4)}`,
      svg("line", { class: "target", x1: width / 2, x2: width / 2, y1: 2, y2: 22 }),
      svg("polyline", { points: `${x(low)},12 ${x(high)},12` }),
      svg("g", { class: "chosen" }, svg("circle", { cx: x(mean), cy: 12, r: 4 })));
  });
}

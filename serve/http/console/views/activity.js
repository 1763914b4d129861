// Activity: what shoppers did of late, whether what is shown has drifted, and how an A/B test stands.

import { call } from "../api.js";
import { bars, interval } from "../charts.js";
import { announce, fill, h } from "../dom.js";
import { number, plural, signed, time } from "../format.js";
import { table } from "./releases.js";

export const title = "Activity", scope = "admin";
const HOUR = 3_600_000, HOURS = 48;
const ORDER = ["impression", "view", "click", "cart", "purchase", "rating", "dislike"];

export function start(root, signal) {
  const shown = h("div", {});
  root.append(shown);
  return () => fill(shown, signal, async () => {
    const { events, drift, experiment, answers_dropped } = await call("activity", { signal });
    announce(`${plural(events.reduce((sum, { count }) => sum + count, 0), "event")} in the last ${HOURS} hours`);
    return [h("h2", {}, `Events of the last ${HOURS} hours`), rates(events),
      answers_dropped > 0 && h("p", { class: "problem" }, `${plural(answers_dropped, "answer")} could not be logged.`),
      h("h2", {}, "A/B test"), tested(experiment), h("h2", {}, "Drift"), drifted(drift)];
  });
}

function rates(events) {
  if (!events.length) return h("p", { class: "soft" }, "None.");
  const last = Math.floor(Date.now() / HOUR) * HOUR;
  const hours = Array.from({ length: HOURS }, (_, place) => last - (HOURS - 1 - place) * HOUR);
  const types = [...new Set(events.map(({ type }) => type))].sort((one, other) => ORDER.indexOf(one) - ORDER.indexOf(other));
  return h("div", { class: "rates" }, types.map((type) => {
    const counts = new Map(events.filter((one) => one.type === type).map(({ start, count }) => [Date.parse(start), count]));
    const values = hours.map((start) => ({ start, count: counts.get(start) ?? 0 }));
    const total = values.reduce((sum, { count }) => sum + count, 0), most = Math.max(...values.map(({ count }) => count));
    return h("div", { class: "panel" }, h("h3", {}, type, h("span", { class: "soft figures" }, `${number(total)}, at most ${number(most)} an hour`)),
      bars(values, `${type}: ${plural(total, "event")}, at most ${number(most)} in an hour`));
  }));
}

function drifted(drift) {
  if (!drift.length) return h("p", { class: "soft" }, "Not known yet: too little was shown since the release was made.");
  const most = Math.max(...drift.map(({ psi }) => psi));
  return [h("p", { class: "soft" }, "How far what is shown has moved since the release was made, as population stability index: under 0.1 is the same, over 0.25 another population."),
    h("ul", { role: "list", class: "shares wide" }, drift.toSorted((one, other) => other.psi - one.psi).map(({ feature, psi, alert }) => {
      const bar = h("span", { class: alert ? "bar against" : "bar" });
      bar.style.setProperty("--share", psi / most);
      return h("li", {}, h("span", {}, feature, alert && h("span", { class: "badge bad" }, "drifted")), h("span", { class: "figures" }, number(psi, 3)), bar);
    }))];
}

function tested(test) {
  if (!test) return h("p", { class: "soft" }, "None runs. vetrina ab start RELEASE begins one.");
  const { experiment, arms, differences, left_out, note } = test;
  const told = `${experiment.release} answers ${number(experiment.share * 100)} % of the shoppers since ${time(experiment.since)}.`;
  if (note) return h("p", { class: "soft" }, `${told} ${note}`);
  const most = (name) => Math.max(Math.abs(differences[name].low), Math.abs(differences[name].high));
  return [h("p", { class: "soft" }, `${told} ${plural(left_out, "shopper")} answered by both left out.`),
    table(["A list", ...Object.keys(arms).map((name) => `${name} (${plural(arms[name].shoppers, "shopper")})`), "Difference", "95 %", "Better"], Object.keys(differences).map((name) => [
      name, ...Object.values(arms).map(({ means }) => number(means[name], 4)), signed(differences[name].mean, 4), interval(differences[name], most(name)), `${number(differences[name].better * 100)} %`,
    ]))];
}

// Activity: what shoppers did of late, how an A/B test stands, and whether what is shown has drifted.

import { call } from "../api.js";
import { bars, interval } from "../charts.js";
import { announce, badge, fill, h, note, shares } from "../dom.js";
import { number, plural, signed, time } from "../format.js";
import { table } from "./releases.js";

export const title = "Activity", scope = "admin";
const HOUR = 3_600_000, HOURS = 48;
const ORDER = ["impression", "view", "click", "cart", "purchase", "rating", "dislike"];

export function start(root, signal) {
  const shown = h("div", {});
  root.append(shown);
  return () => fill(shown, signal, async () => {
    const { events, drift, experiment, answers_dropped: dropped } = await call("activity", { signal });
    announce(`${plural(events.reduce((sum, { count }) => sum + count, 0), "event")} in the last ${HOURS} hours`);
    return [
      h("h2", {}, `Events of the last ${HOURS} hours`), rates(events),
      dropped > 0 && h("p", { class: "problem" }, `${plural(dropped, "answer")} could not be logged.`),
      h("h2", {}, "A/B test"), tested(experiment),
      h("h2", {}, "Drift"), drifted(drift),
    ];
  });
}

function rates(events) {
  if (!events.length) return note("None.");
  const last = Math.floor(Date.now() / HOUR) * HOUR;
  const hours = Array.from({ length: HOURS }, (_, place) => last - (HOURS - 1 - place) * HOUR);
  const types = new Set(events.map(({ type }) => type));
  return h("div", { class: "rates" }, ORDER.filter((type) => types.has(type)).map((type) => {
    const known = events.filter((one) => one.type === type).map(({ start, count }) => [Date.parse(start), count]);
    const counts = new Map(known), values = hours.map((start) => ({ start, count: counts.get(start) ?? 0 }));
    const total = values.reduce((sum, { count }) => sum + count, 0);
    const told = `at most ${number(Math.max(...values.map(({ count }) => count)))} an hour`;
    return h("div", { class: "panel" },
      h("h3", {}, type, h("span", { class: "soft figures" }, `${number(total)}, ${told}`)),
      bars(values, `${type}: ${plural(total, "event")}, ${told}`));
  }));
}

function tested(test) {
  if (!test) return note("None runs. vetrina ab start RELEASE begins one.");
  const { experiment, arms, differences, left_out: both, note: why } = test;
  const { release, share, since } = experiment;
  const told = `${release} answers ${number(share * 100)} % of the shoppers since ${time(since)}.`;
  if (why) return note(told, " ", why);
  const parts = Object.entries(arms).map(([name, { shoppers }]) => `${name} (${plural(shoppers, "shopper")})`);
  return [
    note(told, ` ${plural(both, "shopper")} answered by both left out.`),
    table(["A list", ...parts, "Difference", "95 %", "Better"], Object.entries(differences).map(([name, of]) => [
      name,
      ...Object.values(arms).map(({ means }) => number(means[name], 4)),
      signed(of.mean, 4),
      interval(of, Math.max(Math.abs(of.low), Math.abs(of.high))),
      `${number(of.better * 100)} %`,
    ])),
  ];
}

function drifted(drift) {
  if (!drift.length) return note("Not known yet: too little was shown since the release was made.");
  const most = Math.max(...drift.map(({ psi }) => psi)) || 1;
  return [
    note("How far what is shown has moved since the release was made, as population stability index: ",
      "under 0.1 is the same, over 0.25 another population."),
    shares(drift.map(({ feature, psi, alert }) => ({
      name: [feature, alert && badge("drifted", "bad")], text: number(psi, 3), share: psi / most, against: alert,
    })), "wide"),
  ];
}

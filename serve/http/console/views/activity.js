// Activity: the latest user events, the running A/B test, and drift.

import { call } from "../api.js";
import { bars, interval } from "../charts.js";
import { announce, badge, fill, h, note, shares } from "../dom.js";
import { number, percent, plural, signed, time } from "../format.js";
import { table } from "./releases.js";

export const title = "Activity", scope = "admin";
const HOUR = 3_600_000, HOURS = 48;
const ORDER = ["impression", "view", "click", "cart", "purchase", "rating", "dislike"];

export function start(root, signal) {
  const content = h("div", {});
  root.append(content);
  return () => fill(content, signal, async () => {
    const { events, drift, experiment, impressions_dropped: dropped } = await call("activity", { signal });
    announce(`${plural(events.reduce((sum, { count }) => sum + count, 0), "event")} in the last ${HOURS} hours`);
    return [
      h("h2", {}, `Events of the last ${HOURS} hours`), rates(events),
      dropped > 0 && h("p", { class: "problem" }, `${plural(dropped, "impression")} could not be logged.`),
      h("h2", {}, "A/B test"), abTest(experiment),
      h("h2", {}, "Drift"), driftReport(drift),
    ];
  });
}

function rates(events) {
  if (!events.length) return note("No events.");
  const last = Math.floor(Date.now() / HOUR) * HOUR;
  const hours = Array.from({ length: HOURS }, (_, position) => last - (HOURS - 1 - position) * HOUR);
  const types = new Set(events.map(({ type }) => type));
  return h("div", { class: "rates" }, ORDER.filter((type) => types.has(type)).map((type) => {
    const own = events.filter((event) => event.type === type).map(({ start, count }) => [Date.parse(start), count]);
    const counts = new Map(own), values = hours.map((start) => ({ start, count: counts.get(start) ?? 0 }));
    const total = values.reduce((sum, { count }) => sum + count, 0);
    const peak = `at most ${number(Math.max(...values.map(({ count }) => count)))} per hour`;
    return h("div", { class: "panel" },
      h("h3", {}, type, h("span", { class: "soft figures" }, `${number(total)}, ${peak}`)),
      bars(values, `${type}: ${plural(total, "event")}, ${peak}`));
  }));
}

function abTest(test) {
  if (!test) return note("No test is running. Start one with: vetrina ab start RELEASE");
  const { experiment, arms, differences, excluded, note: reason } = test;
  const { release, share, since } = experiment;
  const summary = `${release} serves ${percent(share)} of the users since ${time(since)}.`;
  if (reason) return note(summary, " ", reason);
  const names = Object.entries(arms).map(([name, { users }]) => `${name} (${plural(users, "user")})`);
  return [
    note(summary, ` ${plural(excluded, "user")} served by both releases ${excluded === 1 ? "is" : "are"} excluded.`),
    table(["Mean per list", ...names, "Difference", "95 % interval", "Probability better"],
      Object.entries(differences).map(([name, difference]) => [
        name,
        ...Object.values(arms).map(({ means }) => number(means[name], 4)),
        signed(difference.mean, 4),
        interval(difference, Math.max(Math.abs(difference.low), Math.abs(difference.high))),
        percent(difference.better),
      ])),
  ];
}

function driftReport(drift) {
  if (!drift.length) return note("Not known yet: too few items were shown since the release was built.");
  const largest = Math.max(...drift.map(({ psi }) => psi)) || 1;
  return [
    note("Change of the shown items since the release was built, as population stability index: ",
      "below 0.1 there is no change, above 0.25 the change is large."),
    shares(drift.map(({ feature, psi, alert }) => ({
      name: [feature, alert && badge("drifted", "bad")], text: number(psi, 3), share: psi / largest, negative: alert,
    })), "wide"),
  ];
}

// Releases: the releases on disk, the active one, and the measurements of each.

import { call } from "../api.js";
import { curve } from "../charts.js";
import { announce, ask, badge, fill, h, latest, note } from "../dom.js";
import { bytes, number, percent, plural, signed, time } from "../format.js";
import { href } from "../router.js";

export const title = "Releases", scope = "admin";

export function start(root, signal) {
  const next = latest(signal);
  const list = h("ul", { role: "list", class: "releases" }), details = h("section", { "aria-label": "Release" });
  root.append(list, details);
  let params;

  async function update(address) {
    params = address;
    const now = next();
    let shown = params.get("release");
    await fill(list, now, async () => {
      const { releases, release: active, changes } = await call("releases", { signal: now });
      shown ??= active;
      return releases.map((one) => row(one, one.release === shown, changes, active));
    });
    if (now.aborted || !shown) return;
    fill(details, now, async () => describe((await call(path(shown), { signal: now })).manifest));
  }

  const row = ({ release, current, created_at: created, items }, shown, changes, active) =>
    h("li", { class: shown ? "panel shown" : "panel" },
      h("div", {},
        h("a", { href: href("releases", { release }), "aria-current": shown && "true", class: "release" }, release),
        current && badge("active", "strong"),
        note(`${time(created)} · ${plural(items, "item")}`,
          current && ` · ${plural(changes.changed, "live change")}, ${number(changes.deleted)} deleted`)),
      !current && h("button", { type: "button", onclick: () => activate(release, active) }, "Activate"));

  async function activate(release, active) {
    const confirmed = await ask({
      title: "Activate this release?",
      text: `${release} replaces ${active} for all users, after its files are verified. Live changes stay.`,
      yes: "Activate",
    });
    if (confirmed === null) return;
    const now = next();
    await fill(details, now, async () => {
      await call(`${path(release)}/activate`, { body: {}, signal: now });
      announce(`${release} is active now`);
      return [];
    });
    if (!details.querySelector(".problem")) update(params);
  }
  return update;
}

const path = (release) => `releases/${encodeURIComponent(release)}`;

function describe({ spaces, tower, ...manifest }) {
  const indexes = { ...spaces, ...(tower && { tower }) };
  return [
    h("h2", {}, "Index health"), health(indexes),
    Object.entries(indexes).map(([name, { curve: points, factory, recall_target: target }]) => points.length > 1 && [
      h("h3", {}, `Recall and latency of ${name}`),
      h("div", { class: "panel" }, curve(points, factory, target)),
    ]),
    h("h2", {}, "Quality"), quality(manifest),
    h("h2", {}, "Lineage"), lineage(manifest),
  ];
}

function health(indexes) {
  const names = Object.keys(indexes), notes = Object.groupBy(names, (name) => indexes[name].note);
  return [
    table(["Space", "Vectors", "Values per vector", "Index", "Recall@10", "Latency", "Size", "Excluded", "Encoder"], names.map((name) => {
      const one = indexes[name], low = one.recall10 < one.recall_target && badge(`below ${one.recall_target}`, "bad");
      return [
        name, number(one.rows), number(one.dim), one.factory, h("span", {}, number(one.recall10, 3), low),
        `${number(one.latency_ms, 3)} ms`, bytes(one.bytes), number(one.failed + one.rejected),
        h("span", { title: one.fingerprint }, one.encoder),
      ];
    })),
    Object.entries(notes).map(([text, spaces]) => text && note(`${spaces.join(", ")}: ${text}`)),
  ];
}

function quality({ quality: measured, checks, alignment }) {
  const lines = [
    measured && `The top ten of the ${plural(measured.users, "most recent user")} cover ` +
      `${percent(measured.coverage10, 1)} of the catalogue.`,
    alignment?.of_words && `For ${found(alignment.of_words)}, a text finds the photo of its item in the top ten.`,
    alignment?.of_photos && `For ${found(alignment.of_photos)}, a photo finds its product first.`,
  ].filter(Boolean);
  if (!lines.length && !checks.length) return note("No measurements.");
  return [
    lines.map((line) => h("p", {}, line)),
    checks.length > 0 && table(["Measure", "Parent", "Release", "Difference", "Cases"], checks.map((check) => [
      check.name, number(check.parent, 4), number(check.release, 4),
      h("span", {}, signed(check.release - check.parent, 4),
        check.low != null && ` (${signed(check.low, 4)} to ${signed(check.high, 4)})`,
        check.worse && badge("worse", "bad")),
      number(check.cases),
    ])),
  ];
}

const found = ({ before, after, better, queries }) =>
  `${percent(better ? after : before, 1)} of ${number(queries)} held-out cases`;

function lineage({ parent, feed, catalogue, items, behaviour, seconds, versions }) {
  const rows = {
    Parent: parent, Feed: feed, Catalogue: catalogue, Items: number(items),
    Behaviour: `${plural(behaviour.events, "event")} of ${plural(behaviour.users, "user")}`,
    Towers: behaviour.towers, Scorer: behaviour.scorer,
    "Build time": Object.entries(seconds).map(([step, took]) => `${step} ${number(took, 1)} s`).join(", "),
    Versions: Object.entries(versions).map(([name, version]) => `${name} ${version}`).join(", "),
  };
  return h("dl", {}, Object.entries(rows).filter(([, value]) => value)
    .map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]));
}

/** A table that becomes a list of named values on a narrow screen. */
export const table = (names, rows) =>
  h("table", {}, h("thead", {}, h("tr", {}, names.map((name) => h("th", { scope: "col" }, name)))),
    h("tbody", {}, rows.map(([first, ...others]) => h("tr", {}, h("th", { scope: "row" }, first),
      others.map((value, position) => h("td", { "data-name": names[position + 1] }, value))))));

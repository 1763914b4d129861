// Releases: which there are, which one answers, and how the indexes of each measure.

import { call } from "../api.js";
import { curve } from "../charts.js";
import { announce, ask, badge, fill, h, latest, note } from "../dom.js";
import { bytes, number, plural, signed, time } from "../format.js";
import { href } from "../router.js";

export const title = "Releases", scope = "admin";

export function start(root, signal) {
  const next = latest(signal);
  const list = h("ul", { role: "list", class: "releases" }), about = h("section", { "aria-label": "The release" });
  root.append(list, about);
  let params;

  async function update(given) {
    params = given;
    const now = next();
    let shown = params.get("release");
    await fill(list, now, async () => {
      const { releases, release: serving, changes } = await call("releases", { signal: now });
      shown ??= serving;
      return releases.map((one) => row(one, one.release === shown, changes, serving));
    });
    if (now.aborted || !shown) return;
    fill(about, now, async () => describe((await call(path(shown), { signal: now })).manifest));
  }

  const row = ({ release, current, created_at: made, items }, shown, changes, serving) =>
    h("li", { class: shown ? "panel shown" : "panel" },
      h("div", {},
        h("a", { href: href("releases", { release }), "aria-current": shown && "true", class: "release" }, release),
        current && badge("serving", "strong"),
        note(`${time(made)} · ${plural(items, "item")}`,
          current && ` · ${plural(changes.changed, "live change")}, ${number(changes.gone)} gone`)),
      !current && h("button", { type: "button", onclick: () => activate(release, serving) }, "Activate"));

  async function activate(release, serving) {
    const yes = await ask({
      title: "Activate this release?",
      text: `${release} will answer everybody in place of ${serving}, once it is found whole. Live changes stay.`,
      yes: "Activate",
    });
    if (yes === null) return;
    const now = next();
    await fill(about, now, async () => {
      await call(`${path(release)}/activate`, { body: {}, signal: now });
      announce(`${release} answers now`);
      return [];
    });
    if (!about.querySelector(".problem")) update(params);
  }
  return update;
}

const path = (release) => `releases/${encodeURIComponent(release)}`;

function describe({ spaces, tower, ...manifest }) {
  const indexes = { ...spaces, ...(tower && { tower }) };
  return [
    h("h2", {}, "Index health"), health(indexes),
    Object.entries(indexes).map(([name, { curve: points, factory, recall_target: target }]) => points.length > 1 && [
      h("h3", {}, `What ${name} costs at which recall`),
      h("div", { class: "panel" }, curve(points, factory, target)),
    ]),
    h("h2", {}, "Quality"), quality(manifest),
    h("h2", {}, "Lineage"), lineage(manifest),
  ];
}

function health(indexes) {
  const names = Object.keys(indexes), notes = Object.groupBy(names, (name) => indexes[name].note);
  return [
    table(["Space", "Vectors", "Index", "Recall@10", "Latency", "Size", "Left out", "Made by"], names.map((name) => {
      const one = indexes[name], low = one.recall10 < one.recall_target && badge(`below ${one.recall_target}`, "bad");
      return [
        name, `${number(one.rows)} of ${one.dim}`, one.factory, h("span", {}, number(one.recall10, 3), low),
        `${number(one.latency_ms, 3)} ms`, bytes(one.bytes), number(one.failed + one.rejected),
        h("span", { title: one.fingerprint }, one.encoder),
      ];
    })),
    Object.entries(notes).map(([said, of]) => said && note(`${of.join(", ")}: ${said}`)),
  ];
}

function quality({ quality: seen, checks, alignment }) {
  const told = [
    seen && `The first ten items for the ${plural(seen.shoppers, "shopper")} who were there last cover ` +
      `${number(seen.coverage10 * 100, 1)} % of the catalogue.`,
    alignment?.of_words && `Words find the photo of an item in the first ten for ${percent(alignment.of_words)}.`,
    alignment?.of_photos && `Photos find their product in the first place for ${percent(alignment.of_photos)}.`,
  ].filter(Boolean);
  if (!told.length && !checks.length) return note("Nothing was measured.");
  return [
    told.map((line) => h("p", {}, line)),
    checks.length > 0 && table(["Measure", "Parent", "Release", "Difference", "Cases"], checks.map((one) => [
      one.name, number(one.parent, 4), number(one.release, 4),
      h("span", {}, signed(one.release - one.parent, 4),
        one.low != null && ` (${signed(one.low, 4)} to ${signed(one.high, 4)})`, one.worse && badge("worse", "bad")),
      number(one.cases),
    ])),
  ];
}

const percent = ({ before, after, better, queries }) =>
  `${number((better ? after : before) * 100, 1)} % of ${number(queries)} that were not learned from`;

function lineage({ parent, feed, catalogue, items, behaviour, seconds, versions }) {
  const rows = {
    Parent: parent, Feed: feed, Catalogue: catalogue, Items: number(items),
    Behaviour: `${plural(behaviour.events, "event")} of ${plural(behaviour.shoppers, "shopper")}`,
    Towers: behaviour.towers, Scorer: behaviour.scorer,
    Built: Object.entries(seconds).map(([step, took]) => `${step} ${number(took, 1)} s`).join(", "),
    With: Object.entries(versions).map(([name, version]) => `${name} ${version}`).join(", "),
  };
  return h("dl", {}, Object.entries(rows).filter(([, value]) => value)
    .map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]));
}

/** A table that becomes a list of named values where it is narrow. */
export const table = (names, rows) =>
  h("table", {}, h("thead", {}, h("tr", {}, names.map((name) => h("th", { scope: "col" }, name)))),
    h("tbody", {}, rows.map(([first, ...others]) => h("tr", {}, h("th", { scope: "row" }, first),
      others.map((value, place) => h("td", { "data-name": names[place + 1] }, value))))));

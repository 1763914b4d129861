// Releases: which there are, which one answers, and how the indexes of each measure.

import { call } from "../api.js";
import { curve } from "../charts.js";
import { announce, ask, fill, h, latest } from "../dom.js";
import { bytes, number, plural, signed, time } from "../format.js";
import { href } from "../router.js";

export const title = "Releases", scope = "admin";

export function start(root, signal) {
  const next = latest(signal);
  const list = h("ul", { role: "list", class: "releases" }), health = h("section", { class: "health", "aria-label": "The release" });
  root.append(list, health);
  let params;

  async function update(given) {
    params = given;
    const now = next();
    let shown = params.get("release");
    await fill(list, now, async () => {
      const { releases, release: serving, changes } = await call("releases", { signal: now });
      shown ??= serving;
      return releases.map((one) => h("li", { class: one.release === shown ? "panel shown" : "panel" },
        h("div", {},
          h("a", { href: href("releases", { release: one.release }), "aria-current": one.release === shown && "true", class: "release" }, one.release),
          one.current && h("span", { class: "badge strong" }, "serving"),
          h("p", { class: "soft" }, `${time(one.created_at)} · ${plural(one.items, "item")}`,
            one.current && ` · ${plural(changes.changed, "live change")}, ${number(changes.gone)} gone`)),
        !one.current && h("button", { type: "button", onclick: () => activate(one.release, serving) }, "Activate")));
    });
    if (!now.aborted && shown) fill(health, now, async () => describe((await call(`releases/${encodeURIComponent(shown)}`, { signal: now })).manifest));
  }

  async function activate(release, serving) {
    const yes = await ask({ title: "Activate this release?", text: `${release} will answer everybody in place of ${serving}, once it is found whole. Live changes stay.`, yes: "Activate" });
    if (yes === null) return;
    const now = next();
    await fill(health, now, async () => {
      await call(`releases/${encodeURIComponent(release)}/activate`, { body: {}, signal: now });
      announce(`${release} answers now`);
      return [];
    });
    if (!health.querySelector(".problem")) update(params);
  }
  return update;
}

function describe(manifest) {
  const indexes = { ...manifest.spaces, ...(manifest.tower && { tower: manifest.tower }) };
  return [
    h("h2", {}, "Index health"),
    table(["Space", "Vectors", "Index", "Recall@10", "Latency", "Size", "Made by"], Object.entries(indexes).map(([name, one]) => [
      name, `${number(one.rows)} of ${one.dim}`, one.factory,
      h("span", {}, number(one.recall10, 3), one.recall10 < one.recall_target && h("span", { class: "badge bad" }, `below ${one.recall_target}`)),
      `${number(one.latency_ms, 3)} ms`, bytes(one.bytes), h("span", { title: one.fingerprint }, one.encoder),
    ])),
    Object.entries(Object.groupBy(Object.keys(indexes), (name) => indexes[name].note)).map(([note, names]) => note && h("p", { class: "soft" }, `${names.join(", ")}: ${note}`)),
    Object.entries(indexes).map(([name, one]) => [
      one.failed + one.truncated + one.rejected > 0 && h("p", { class: "soft" }, `${name}: ${number(one.failed)} failed, ${number(one.truncated)} cut, ${number(one.rejected)} rejected`),
      one.curve.length > 1 && [h("h3", {}, `What ${name} cost at which recall`), h("div", { class: "panel" }, curve(one.curve, one.factory, one.recall_target))],
    ]),
    h("h2", {}, "Quality"),
    quality(manifest),
    h("h2", {}, "Lineage"),
    h("dl", {}, Object.entries({
      Parent: manifest.parent,
      Feed: manifest.feed, Catalogue: manifest.catalogue, Items: number(manifest.items),
      Behaviour: `${plural(manifest.behaviour.events, "event")} of ${plural(manifest.behaviour.shoppers, "shopper")}`,
      Towers: manifest.behaviour.towers, Scorer: manifest.behaviour.scorer,
      Built: Object.entries(manifest.seconds).map(([step, took]) => `${step} ${number(took, 1)} s`).join(", "),
      With: Object.entries(manifest.versions).map(([name, version]) => `${name} ${version}`).join(", "),
    }).filter(([, value]) => value).map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)])),
  ];
}

function quality({ quality, checks, alignment }) {
  const told = [
    quality && h("p", {}, `The first ten items for the ${plural(quality.shoppers, "shopper")} who were there last cover ${number(quality.coverage10 * 100, 1)} % of the catalogue.`),
    alignment?.of_words && h("p", {}, `Words find the photo of an item that was not learned from, among the first ten, for ${percent(alignment.of_words)}.`),
    alignment?.of_photos && h("p", {}, `Photos find their product that was not learned from, in the first place, for ${percent(alignment.of_photos)}.`),
    checks.length > 0 && table(["Beside its parent", "Parent", "Release", "Difference", "Cases"], checks.map((one) => [
      one.name, number(one.parent, 4), number(one.release, 4),
      h("span", {}, signed(one.release - one.parent, 4), one.low != null && ` (${signed(one.low, 4)} to ${signed(one.high, 4)})`, one.worse && h("span", { class: "badge bad" }, "worse")),
      number(one.cases),
    ])),
  ].filter(Boolean);
  return told.length ? told : h("p", { class: "soft" }, "Nothing was measured.");
}

const percent = ({ before, after, better }) => `${number((better ? after : before) * 100, 1)} %`;

/** A table that becomes a list of named values where it is narrow. */
export const table = (names, rows) =>
  h("table", {}, h("thead", {}, h("tr", {}, names.map((name) => h("th", { scope: "col" }, name)))),
    h("tbody", {}, rows.map(([first, ...others]) => h("tr", {}, h("th", { scope: "row" }, first),
      others.map((value, place) => h("td", { "data-name": names[place + 1] }, value))))));

"use strict";
// Colours of the map, and the legend that names and filters them.

import { colour } from "./api.js";
import { clear, count, h, short } from "./dom.js";

const FIXED = [0.2, 0.4, 0.6, 0.8];
const RAMPS = { light: [[205, 62, 76], [208, 62, 62], [212, 64, 49], [218, 66, 37], [226, 68, 25]], dark: [[226, 45, 34], [218, 48, 46], [212, 52, 58], [206, 60, 70], [200, 75, 84]] };
const SHOWN = 12;

/** Which of the legend's entries each cluster and item belongs to. */
export class Shades {
  constructor(tree) {
    this.tree = tree;
    this.by = "topic";
    this.values = null;
    this.off = new Set();
    this.entries = [];
    this.known = null;
  }
  /** `values` are those of a column; none are needed for topics, levels and scores. */
  choose(by, values = null) { this.by = by; this.values = values; this.off.clear(); this.known = null; }
  get isColumn() { return Boolean(this.values); }

  /** Names the entries for what is in view; returns whether they have changed. */
  prepare(focus, shown, members) {
    const { tree } = this, known = JSON.stringify([this.by, focus, this.by === "level" || this.by === "score" ? shown : 0]);
    this.base = this.by === "level" ? Math.max(shown, 1) : focus ? Math.max(focus[0] - 1, 1) : tree.nLevels;
    this.shown = Math.max(shown, 1);
    if (known === this.known) return false;
    this.known = known;
    this.off.clear();
    if (this.by === "topic" || this.by === "level") {
      const ids = members(this.base).slice().sort((a, b) => tree.size(this.base, b) - tree.size(this.base, a) || a - b);
      this.rank = new Map(ids.map((id, place) => [id, place]));
      this.entries = ids.map((id) => [tree.title(this.base, id), tree.size(this.base, id)]);
      return true;
    }
    const edges = this.by === "score" ? FIXED : this.values.edges;
    this.edges = edges;
    if (this.values?.classes.length) this.entries = this.values.classes.map((name) => [name, null]);
    else if (this.by === "score") this.entries = FIXED.concat(1).map((high, place) => [`${Math.round(100 * (FIXED[place - 1] ?? 0))}% to ${Math.round(100 * high)}%`, null]);
    else this.entries = edges.map((high, place) => [place ? `${short(edges[place - 1])} to ${short(high)}` : `below ${short(high)}`, null]).concat([[`${short(edges.at(-1))} and more`, null]]);
    return true;
  }
  band(value) {
    if (value === null || value === undefined) return -1;
    if (this.values?.classes.length) return value;
    let place = 0;
    while (place < this.edges.length && value >= this.edges[place]) place += 1;
    return place;
  }
  /** Entry of a cluster; -1 for none. */
  of(level, id) {
    const { tree } = this;
    if (this.by === "topic" || this.by === "level") return level > this.base ? -1 : this.rank.get(tree.ancestor(level, id, this.base)) ?? -1;
    if (this.by === "score") return this.band(tree.level(Math.max(level, this.shown)).score[tree.ancestor(level, id, Math.max(level, this.shown))]);
    return this.band(this.values.levels[level - 1][id]);
  }
  /** Entry of an item of a set of points. */
  ofItem(set, index) { return this.isColumn ? this.band(set.values?.[index]) : this.of(1, set.leaves[index]); }
  isOff(entry) { return this.off.has(entry); }
  colour(entry, dark) {
    if (entry < 0) return dark ? "hsl(0 0% 55%)" : "hsl(0 0% 60%)";
    if (this.by === "topic" || this.by === "level" || this.values?.classes.length) return colour(entry, dark);
    const ramp = RAMPS[dark ? "dark" : "light"], [hue, full, light] = ramp[Math.round(entry * (ramp.length - 1) / Math.max(this.entries.length - 1, 1))];
    return `hsl(${hue} ${full}% ${light}%)`;
  }
}

/** A button for each entry, which hides and shows it. */
export function drawLegend(holder, shades, dark, changed, most = SHOWN) {
  const entry = ([name, n], place) => h("li", {}, h("button", { class: "entry", "aria-pressed": String(!shades.isOff(place)), onclick: (event) => {
    if (shades.isOff(place)) shades.off.delete(place); else shades.off.add(place);
    event.currentTarget.setAttribute("aria-pressed", String(!shades.isOff(place)));
    all.hidden = !shades.off.size;
    changed();
  } }, h("span", { class: "dot", style: { background: shades.colour(place, dark) } }), h("span", { class: "name" }, name), n !== null && h("span", { class: "faint" }, count(n))));
  const all = h("button", { class: "plain", hidden: !shades.off.size, onclick: () => { shades.off.clear(); drawLegend(holder, shades, dark, changed, most); changed(); } }, "Show all");
  clear(holder, h("ul", {}, shades.entries.slice(0, most).map(entry)),
    h("p", {}, shades.entries.length > most && h("button", { class: "plain", onclick: () => drawLegend(holder, shades, dark, changed, shades.entries.length) }, `${count(shades.entries.length - most)} more`), all));
}

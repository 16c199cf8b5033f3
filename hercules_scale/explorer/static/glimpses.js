"use strict";
// Glimpses of items under the pointer or the keyboard's focus: read by place, a moment after it rests, and kept.

import { get } from "./api.js";
import { h, short } from "./dom.js";

const REST = 60, KEPT = 500, NUMBERS = 8, CHARACTERS = 300;

export class Glimpses {
  constructor(context) {
    this.context = context;
    this.kept = new Map();
    this.waiting = null;
    this.asked = null;
  }
  stop() { clearTimeout(this.waiting); this.asked = null; }
  /** Calls back with null at once and with the item once it is read; or with the item at once. */
  of(place, shown) {
    if (this.kept.has(place)) { this.stop(); shown(this.kept.get(place)); return; }
    shown(null);
    const again = this.asked?.place === place;
    this.asked = { place, shown };
    if (again) return;
    clearTimeout(this.waiting);
    this.waiting = setTimeout(async () => {
      let found;
      try { [found] = await get(`runs/${this.context.run}/glimpses`, { places: place }); } catch (error) { found = { error: error.message }; }
      if (!found.error) this.kept.set(place, found);
      if (this.kept.size > KEPT) this.kept.delete(this.kept.keys().next().value);
      if (this.asked?.place === place) { const last = this.asked.shown; this.asked = null; last(found); }
    }, REST);
  }
  words(item) {
    if (item.error) return item.error;
    if (item.withheld) return `${item.item_id}: withheld, since its cluster is small`;
    if (item.numbers.length) return `${item.item_id}: ${item.numbers.slice(0, NUMBERS).map(([name, value]) => `${name} ${short(value)}`).join(", ")}`;
    const text = item.description ?? item.image_uri;
    return !text || text === item.item_id ? item.item_id : text.length < CHARACTERS ? text : `${text.trimEnd()}…`;
  }
  content(item, title) {
    return [item?.thumbnail && h("img", { src: `/api/runs/${this.context.run}/thumbnail?place=${item.place}`, alt: "", width: 64, height: 64 }),
      h("p", { class: "in" }, item ? this.words(item) : "…"), h("p", { class: "of" }, title)];
  }
}

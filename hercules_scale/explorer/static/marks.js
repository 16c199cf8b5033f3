"use strict";
// What a search or the lasso has found: marked on the map, listed beside it, and saved as CSV.

import { get, save } from "./api.js";
import { count, cut, download, h, say } from "./dom.js";

// Items that are listed at once, and items whose spots are asked for.
const LISTED = 25, SPOTS = 50;

/** Whether a spot is inside of a polygon. */
export function inside(corners, x, y) {
  let within = false;
  for (let one = 0, other = corners.length - 1; one < corners.length; other = one++) {
    const [ax, ay] = corners[one], [bx, by] = corners[other];
    if ((ay > y) !== (by > y) && x < (bx - ax) * (y - ay) / (by - ay) + ax) within = !within;
  }
  return within;
}

/** Marks the hits of a search, and reads where its items are on the map. */
export async function marksOfHits(run, title, clusters, items) {
  const rows = items.map((item) => item.row);
  const spots = rows.length ? await get(`runs/${run}/spots`, { rows: rows.slice(0, SPOTS).join(",") }) : [];
  return { title, rows: new Set(rows), items, clusters: clusters.map((hit) => [hit.level, hit.cluster_id]), spots };
}

/** A button that saves items as CSV: by row, and all of some clusters. */
export function saveButton(context, rows, clusters = []) {
  const button = h("button", { onclick: async () => {
    button.disabled = true;
    try {
      download(`${context.tree.name}-items.csv`, await save(`runs/${context.run}/selection`, { rows: [...rows], clusters }));
      say("saved");
    } catch (error) { say(error.message); button.after(h("span", { role: "alert", class: "error" }, error.message)); }
    button.disabled = false;
  } }, "Save as CSV");
  return button;
}

/** The marked items and clusters, as a part of the panel. */
export function markedSection(context) {
  const { marks, tree, link, run } = context;
  const n = marks.rows.size, list = h("ul", { class: "list tall" }), more = h("button", {}, "More");
  let listed = 0;
  const line = (item) => h("li", {}, h("div", {}, h("a", { href: link({ item: item.row, cluster: [1, item.level_1] }) }, item.item_id),
    item.description && item.description !== item.item_id && h("p", {}, cut(item.description, 160)), h("p", { class: "small" }, "in ", tree.title(1, item.level_1))));
  const next = async () => {
    const until = Math.min(listed + LISTED, n);
    more.hidden = true;
    const items = marks.items ? marks.items.slice(listed, until) : listed < until ? await get(`runs/${run}/glimpses`, { places: marks.places.slice(listed, until).join(",") }) : [];
    list.append(...items.map(line));
    listed = until;
    more.hidden = listed >= n;
  };
  more.onclick = next;
  next();
  const sizes = marks.clusters.reduce((sum, [level, id]) => sum + tree.size(level, id), 0);
  return h("section", { class: "marked", "aria-label": "Marked" }, h("h2", {}, marks.title),
    h("p", {}, [n > 0 && `${count(n)} items`, marks.clusters.length > 0 && `${count(marks.clusters.length)} clusters of ${count(sizes)} items`].filter(Boolean).join(" and "), " marked on the map"),
    h("p", { class: "row" }, saveButton(context, marks.rows, n ? [] : marks.clusters), h("button", { onclick: () => { context.mark(null); context.again(); } }, "Clear")),
    marks.clusters.length > 0 && h("ul", { class: "list" }, marks.clusters.slice(0, 50).map(([level, id]) => h("li", {}, h("a", { href: link({ cluster: [level, id], item: null }) }, tree.title(level, id)), h("span", { class: "size" }, `${count(tree.size(level, id))} · level ${level}`)))),
    list, more);
}

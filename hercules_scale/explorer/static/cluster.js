"use strict";
// The panel beside the views: what is selected, a cluster or an item.

import { colour, get, isDark, post } from "./api.js";
import { markedSection } from "./marks.js";
import { clear, count, h, histogram, parts, say, share, short, table } from "./dom.js";

const PAGE = 25;
let asked = 0;

function crumbs(context, cluster) {
  const { tree, link, marks } = context;
  return [marks && h("p", { class: "small" }, h("a", { href: link({ cluster: null, item: null }) }, `Back to “${marks.title}”`)), h("nav", { class: "crumbs", "aria-label": "Clusters above" }, h("ol", {},
    h("li", {}, h("a", { href: link({ cluster: null, item: null }) }, "All items")),
    tree.path(...cluster).map(([level, id], place, all) => h("li", {},
      h("a", { href: link({ cluster: [level, id], item: null }), "aria-current": place === all.length - 1 && context.here.item === null ? "page" : null }, tree.title(level, id))))))];
}
const dot = (context, level, id) => h("span", { class: "dot", style: { background: colour(context.tree.tops[level - 1][id], isDark()) } });

function listed(context, level, ids, extra = () => null) {
  const { tree, link } = context;
  return h("ul", { class: "list" }, ids.map((id, place) => h("li", {}, dot(context, level, id),
    h("a", { href: link({ cluster: [level, id], item: null }) }, tree.title(level, id)),
    tree.level(level).mark[id] && h("mark", {}, tree.level(level).mark[id]),
    h("span", { class: "size" }, extra(place) ?? count(tree.size(level, id))))));
}

/** Counts of clusters by level in words, coarsest level first. */
function listing(counts) {
  const last = counts.length - 1;
  const named = counts.map((n, place) => `${count(n)} ${place === 0 ? "topics" : place === 1 ? "subtopics" : place === last ? "fine clusters" : "clusters"}`);
  return last ? `${named.slice(0, -1).join(", ")} and ${named[last]}` : named[0];
}

export async function clusterPanel(right, context) {
  const mine = ++asked, { tree, run, link, here } = context;
  if (!here.cluster) {
    clear(right, context.marks && markedSection(context), h("h2", {}, "All items"), h("p", {}, `${count(tree.nItems)} items in ${listing(tree.levels.map((level) => level.title.length).reverse())}.`),
      h("p", { class: "faint" }, "Select a cluster on the map, in the tree or by search."),
      h("h3", {}, "Topics"), parts(tree.roots, (ids) => listed(context, tree.nLevels, ids), 20));
    return;
  }
  const [level, id] = here.cluster;
  right.setAttribute("aria-busy", "true");
  let found;
  try { found = await get(`runs/${run}/cluster`, { level, id }); } finally { right.removeAttribute("aria-busy"); }
  if (mine !== asked) return;
  const below = tree.below(level, id), above = level < tree.nLevels ? tree.below(level + 1, tree.parent(level, id)).filter((each) => each !== id) : [];
  const source = { model: "the model", keyphrases: "key phrases", parts: "the titles of parts", person: "a person" }[found.summary_source] ?? found.summary_source;
  const pager = h("div", { class: "items" });
  clear(right, crumbs(context, here.cluster),
    h("h2", { class: "heading" }, dot(context, level, id), found.title),
    h("p", { class: "facts" }, `Level ${level} · ${count(found.n_items)} items (${share(found.n_items, tree.nItems)}) · cluster ${level}/${id}`),
    found.description && found.description !== found.title && h("p", {}, found.description),
    found.note && h("div", { class: "note" }, h("h3", {}, "Note"), h("p", { class: "pre" }, found.note)),
    h("dl", { class: "pairs" },
      h("dt", {}, "Title by"), h("dd", {}, source ?? "Not yet written", found.summary_status === "fallback" && found.summary_source === "model" && h("mark", {}, "description from key phrases")),
      found.title !== found.own_title && [h("dt", {}, "Original title"), h("dd", {}, found.own_title)],
      found.summary_error && [h("dt", {}, "Reason"), h("dd", {}, found.summary_error)],
      h("dt", {}, "Label score"), h("dd", {}, found.summary_score === null ? "–" : `${(100 * found.summary_score).toFixed(0)}% of sampled items match this title better than any sibling's`),
      h("dt", {}, "Inertia"), h("dd", {}, short(found.inertia))),
    found.keyphrases?.length > 0 && h("ul", { class: "phrases", "aria-label": "Key phrases" }, found.keyphrases.map((phrase) => h("li", {}, phrase))),
    editor(context, found),
    found.exemplars.length > 0 && h("section", {}, h("h3", {}, "Most typical items"),
      h("ul", { class: "exemplars" }, found.exemplars.map((item) => itemLine(context, item, item.row)))),
    found.statistics.length > 0 && h("section", {}, h("h3", {}, "Variables, the most distinctive first"), parts(found.statistics, statistics, 8)),
    below.length > 0 && h("section", {}, h("h3", {}, `Subclusters (${count(below.length)})`), parts(below, (ids) => listed(context, level - 1, ids))),
    above.length > 0 && h("section", {}, h("h3", {}, `Siblings (${count(above.length)})`), parts(above, (ids) => listed(context, level, ids), 6)),
    found.neighbours.length > 0 && h("section", {}, h("h3", {}, "Nearest clusters"),
      listed(context, level, found.neighbours.map((each) => each.id), (place) => `distance ${short(found.neighbours[place].distance)}`),
      h("p", { class: "faint small" }, "Squared Euclidean distance between centroids")),
    distances(found.distributions),
    h("section", {}, h("h3", {}, "Items"), context.status.finished && h("p", { class: "small" }, h("a", { href: `/api/runs/${run}/export?${new URLSearchParams({ format: "csv", level, id })}`, download: "" }, "Save its items as CSV")), pager));
  right.scrollTop = 0;
  page(pager, context, found, 0);
}

function statistics(rows) {
  return h("div", { class: "stats" }, rows.map((each) => h("div", { class: "stat" },
    h("div", { class: "row between" }, h("strong", {}, each.variable), each.deviation !== null && h("span", { class: "faint" }, `${each.deviation >= 0 ? "+" : "−"}${Math.abs(each.deviation).toFixed(1)} SD`)),
    each.histogram.length > 0 && histogram(each.histogram, ...each.bounds, `Distribution of ${each.variable}`, each.mean),
    h("p", { class: "faint small" }, `Mean ${short(each.mean)} · SD ${short(each.std)} · ${short(each.min)} to ${short(each.max)}`))));
}

function distances(found) {
  if (!found?.distance && !found?.margin) return null;
  return h("section", {}, h("h3", {}, "Spread of its items"), h("div", { class: "stats" },
    found.distance && h("div", { class: "stat" }, h("strong", {}, "Distance to the centroid"), histogram(found.distance.histogram, ...found.distance.bounds, "Distribution of distances"),
      h("p", { class: "faint small" }, `Squared Euclidean, median ${short(found.distance.median)}`)),
    found.margin && h("div", { class: "stat" }, h("strong", {}, "Margin to the next centroid"), histogram(found.margin.histogram, ...found.margin.bounds, "Distribution of margins", 0),
      h("p", { class: "faint small" }, `Median ${short(found.margin.median)}, ${(100 * found.margin.share_below_zero).toFixed(1)}% closer to another centroid`))));
}

function itemLine(context, item, row) {
  const words = item.text ?? item.description ?? item.image_uri ?? "";
  return h("li", { class: "item" },
    item.thumbnail && h("img", { src: `/api/runs/${context.run}/thumbnail?row=${row}`, alt: "", loading: "lazy" }),
    h("div", {}, h("a", { href: context.link({ item: row }) }, item.item_id), words && words !== item.item_id && h("p", {}, words.length > 400 ? `${words.slice(0, 400)}…` : words)));
}

async function page(holder, context, found, offset) {
  const { run, tree, link } = context;
  let values;
  try { values = await get(`runs/${run}/items`, { level: found.level, id: found.id, offset, limit: PAGE }); } catch (error) {
    clear(holder, h("p", { role: "status" }, error.message), h("button", { onclick: () => page(holder, context, found, offset) }, "Try again"));
    return;
  }
  const last = Math.min(offset + values.items.length, values.n_items), turn = (to, text, label) =>
    h("button", { disabled: to < 0 || to >= values.n_items || to === offset, "aria-label": label, onclick: () => page(holder, context, found, to) }, text);
  const numbers = values.columns.slice(0, 6);
  const rows = values.items.map((item) => [
    h("div", { class: "item" }, item.thumbnail && h("img", { src: `/api/runs/${run}/thumbnail?place=${item.place}`, alt: "", loading: "lazy" }),
      h("div", {}, h("a", { href: link({ item: item.row }) }, item.item_id),
        item.description && item.description !== item.item_id && !item.numbers && h("p", {}, item.description),
        found.level > 1 && h("p", { class: "small" }, "in ", h("a", { href: link({ cluster: [1, item.level_1], item: null }) }, tree.title(1, item.level_1))))),
    ...numbers.map((_, place) => short(item.numbers?.[place])), short(item.distance), short(item.margin)]);
  const first = 1 + numbers.length;
  const moved = holder.contains(document.activeElement);
  clear(holder,
    h("p", { class: "faint small" }, found.level > 1 ? "Grouped by finest cluster, the most typical first. Distance and margin refer to this level." : "The most typical first."),
    table(`Items ${count(values.n_items ? offset + 1 : 0)} to ${count(last)} of ${count(values.n_items)}`, ["Item", ...numbers, "Distance", "Margin"], rows, [...numbers.map((_, place) => place + 1), first, first + 1]),
    h("div", { class: "row" }, turn(0, "First", "First page"), turn(offset - PAGE, "Previous", "Previous page"), turn(offset + PAGE, "Next", "Next page"),
      turn(Math.floor(Math.max(values.n_items - 1, 0) / PAGE) * PAGE, "Last", "Last page")));
  if (moved) { say(`Items ${offset + 1} to ${last}`); holder.querySelector("button:not([disabled])")?.focus(); }
}

function editor(context, found) {
  const title = h("input", { id: "edit-title", value: found.title === found.own_title ? "" : found.title, placeholder: found.own_title, maxlength: "200", autocomplete: "off" });
  const note = h("textarea", { id: "edit-note", rows: "3", value: found.note ?? "", maxlength: "10000" });
  const notice = h("p", { role: "alert" });
  const form = h("form", { class: "edit", onsubmit: async (event) => {
    event.preventDefault();
    try {
      await post(`runs/${context.run}/edit`, { level: found.level, id: found.id, title: title.value, note: note.value, revision: found.revision });
      await context.reload();
      say("Saved");
      context.again();
    } catch (error) { clear(notice, error.message); }
  } },
  h("label", { for: "edit-title" }, "Title"), title, h("label", { for: "edit-note" }, "Note"), note,
  h("div", { class: "row" }, h("button", { type: "submit" }, "Save"), h("span", { class: "faint small" }, "Saved beside the run. Leave the title empty to restore the original.")), notice);
  return h("details", {}, h("summary", {}, found.edited_at ? "Edited by a person; change again" : "Rename or note"), form);
}

const key = (name) => h("span", { class: "key" }, name);

export async function itemPanel(right, context) {
  const mine = ++asked, { run, tree, link, here } = context;
  const found = await get(`runs/${run}/item`, { row: here.item });
  if (mine !== asked) return;
  const { item, clusters, labels, columns } = found;
  const leaf = clusters[0];
  clear(right, crumbs(context, [1, leaf.id]),
    h("h2", {}, item.item_id),
    h("p", { class: "facts" }, `Item in row ${count(item.row)}`),
    item.thumbnail && h("img", { class: "large", src: `/api/runs/${run}/thumbnail?row=${item.row}`, alt: `Picture of ${item.item_id}` }),
    item.image_uri && h("p", { class: "faint" }, item.image_uri),
    item.title && item.title !== item.item_id && item.title !== item.description && h("p", {}, h("strong", {}, item.title)),
    h("p", { class: "pre" }, item.text ?? item.description ?? ""),
    item.n_characters && h("p", { class: "faint" }, `The text has ${count(item.n_characters)} characters; only the beginning is shown.`),
    columns.length > 0 && table("Columns", ["Column", "Value"], columns.map((name) => [key(name), short(item[name])]), [1]),
    Object.keys(labels).length > 0 && table("Ground truth", ["Column", "Class"], Object.entries(labels).map(([name, value]) => [key(name), value ?? "–"])),
    h("p", {}, h("a", { href: link({ view: "search", q: "", like: item.row }) }, "Find similar items")),
    h("h3", {}, "Its clusters"),
    table("Clusters at every level", ["Level", "Cluster", "Distance", "Margin"], [...clusters].reverse().map((each) => [
      each.level, h("a", { href: link({ cluster: [each.level, each.id], item: null }) }, tree.title(each.level, each.id)), short(each.distance), short(each.margin)]), [2, 3]));
  right.scrollTop = 0;
}

"use strict";
import { clear, count, h, printable, share, svg } from "./dom.js";
import { colour, isDark } from "./api.js";

const LEAST = 3, LOWEST = 64, HIGHEST = 150;

const ruler = document.createElement("canvas").getContext("2d");
/** As much of a text as fits into a width; nothing where that is hardly any of it. */
function fitted(text, wide, font) {
  ruler.font = font;
  const chars = [...text];
  if (ruler.measureText(text).width <= wide) return text;
  let [low, high] = [0, chars.length];
  while (low < high) {
    const middle = Math.ceil((low + high) / 2);
    if (ruler.measureText(chars.slice(0, middle).join("") + "…").width <= wide) low = middle; else high = middle - 1;
  }
  return low < 3 ? "" : chars.slice(0, low).join("") + "…";
}

/** Levels below one another, as wide as they have items; a click brings a cluster to full width. */
export function icicleView(left, context) {
  let { tree } = context, root = null;
  const holder = h("div", { class: "scrolled icicles" });
  const crumbs = h("nav", { class: "crumbs", "aria-label": "Shown within" });
  left.append(h("div", { class: "tools" }, crumbs, h("span", { class: "faint" }, "Width is the number of items. Enter or click selects; what is selected fills the width.")), holder);
  const watch = new ResizeObserver(() => draw());

  function draw() {
    const inside = getComputedStyle(holder), padding = parseFloat(inside.paddingLeft);
    const width = Math.max(holder.clientWidth - 2 * padding, 200), dark = isDark();
    const [topLevel, ids] = root ? [root[0], [root[1]]] : [tree.nLevels, tree.roots];
    const row = Math.min(Math.max(Math.floor((holder.clientHeight - 2 * padding - 4) / topLevel), LOWEST), HIGHEST);
    const height = topLevel * row;
    const found = [], rests = [], selected = context.here.cluster;
    const lay = (level, id, x, wide) => {
      if (wide < LEAST) return;
      found.push([level, id, x, wide]);
      let at = x;
      const below = tree.below(level, id), size = Math.max(tree.size(level, id), 1);
      for (const child of below) {
        const own = wide * tree.size(level - 1, child) / size;
        // They are sorted: all that follow are as narrow.
        if (own < LEAST) { rests.push([level - 1, at, x + wide - at]); break; }
        lay(level - 1, child, at, own);
        at += own;
      }
    };
    let at = 0;
    const all = Math.max(ids.reduce((sum, id) => sum + tree.size(topLevel, id), 0), 1);
    for (const id of ids) { const own = width * tree.size(topLevel, id) / all; lay(topLevel, id, at, own); at += own; }
    const cells = found.map(([level, id, x, wide]) => {
      const title = tree.title(level, id), mine = selected && selected[0] === level && selected[1] === id;
      const y = (topLevel - level) * row, inside = wide - 14, items = `${count(tree.size(level, id))} items`;
      const name = fitted(printable(title), inside, "600 13px system-ui, sans-serif"), size = fitted(items, inside, "12px system-ui, sans-serif");
      return svg("a", { href: context.link({ cluster: [level, id], item: null }), "aria-label": `${title}, level ${level}, ${count(tree.size(level, id))} items`, "aria-current": mine ? "true" : null },
        svg("title", {}, `${title} · ${count(tree.size(level, id))} items · ${share(tree.size(level, id), tree.nItems)}`),
        svg("rect", { x: x + 0.5, y: y + 0.5, width: Math.max(wide - 1, 1), height: row - 1, rx: 3, fill: colour(tree.tops[level - 1][id], dark) }),
        name && svg("text", { x: x + 7, y: y + 22, class: "strong" }, name),
        size === items && svg("text", { x: x + 7, y: y + 42 }, size));
    });
    clear(holder, svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": "Icicle of the clusters" },
      rests.map(([level, x, wide]) => svg("rect", { class: "rest", x, y: (topLevel - level) * row + 0.5, width: Math.max(wide - 1, 0), height: row - 1, rx: 3 }, svg("title", {}, "Clusters that are too narrow to be drawn; select the one above"))), cells));
    const path = root ? tree.path(...root) : [];
    clear(crumbs, h("ol", {}, h("li", {}, h("a", { href: context.link({ cluster: null, item: null }) }, "All items")),
      path.map(([level, id]) => h("li", {}, h("a", { href: context.link({ cluster: [level, id], item: null }) }, tree.title(level, id))))));
  }
  const fill = (cluster) => {
    if (!cluster) root = null;
    else if (cluster[0] > 1) root = cluster;
    else root = tree.nLevels > 1 ? [2, tree.parent(1, cluster[1])] : null;
  };
  fill(context.here.cluster);
  watch.observe(holder);
  draw();
  return {
    update(next) {
      const had = holder.contains(document.activeElement);
      context = next;
      tree = next.tree;
      fill(next.here.cluster);
      draw();
      if (had) (holder.querySelector("[aria-current]") ?? holder.querySelector("a"))?.focus();
    },
    end() { watch.disconnect(); },
  };
}

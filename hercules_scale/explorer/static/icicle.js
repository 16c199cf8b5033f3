"use strict";
import { clear, count, h, printable, share, svg } from "./dom.js";
import { colour, isDark } from "./api.js";

const LEAST = 3, LOWEST = 64, NARROWEST = 14, LINE = 17, INSIDE = 7;
const FONT = "600 13px system-ui, sans-serif", SMALL = "12px system-ui, sans-serif";

const ruler = document.createElement("canvas").getContext("2d");
const width = (text, font) => { ruler.font = font; return ruler.measureText(text).width; };
/** As much of a text as fits into a width; nothing where that is hardly any of it. */
function fitted(text, wide, font) {
  const chars = [...text];
  if (width(text, font) <= wide) return text;
  let [low, high] = [0, chars.length];
  while (low < high) {
    const middle = Math.ceil((low + high) / 2);
    if (width(chars.slice(0, middle).join("") + "…", font) <= wide) low = middle; else high = middle - 1;
  }
  return low < 3 ? "" : chars.slice(0, low).join("") + "…";
}

/** A text in at most some lines, the last of which is cut where it does not fit. */
function wrapped(text, wide, most) {
  const words = text.split(/\s+/), found = [];
  while (words.length && found.length < most) {
    if (found.length === most - 1) { found.push(fitted(words.join(" "), wide, FONT)); break; }
    let n = 1;
    while (n < words.length && width(words.slice(0, n + 1).join(" "), FONT) <= wide) n += 1;
    found.push(fitted(words.splice(0, n).join(" "), wide, FONT));
  }
  return found.filter(Boolean);
}
/** Title and size of a cluster: in lines, or downwards where it is narrower than a word. */
function labelled(title, size, x, y, wide, high) {
  const longest = Math.max(...title.split(/\s+/).map((word) => width(word, FONT)));
  const across = wide - 2 * INSIDE, along = high - 2 * INSIDE;
  if (across >= Math.min(longest, 90)) {
    const lines = wrapped(title, across, Math.max(Math.floor((high - 8) / LINE) - 1, 1));
    const texts = lines.map((line, place) => svg("text", { x: x + INSIDE, y: y + 21 + place * LINE, class: "strong" }, line));
    return fitted(size, across, SMALL) === size ? [...texts, svg("text", { x: x + INSIDE, y: y + 22 + lines.length * LINE }, size)] : texts;
  }
  const n = wide < NARROWEST ? 0 : Math.max(Math.floor((wide - 4) / LINE), 1);
  if (n < 1 || along < 3 * LINE) return [];
  const lines = wrapped(title, along, n), first = x + wide / 2 + (lines.length - 1) * LINE / 2 - 4.5;
  return lines.map((line, place) => svg("text", { transform: `translate(${first - place * LINE} ${y + INSIDE}) rotate(90)`, class: "strong" }, line));
}

/** Levels below one another, as wide as they have items; a click brings a cluster to full width. */
export function icicleView(left, context) {
  let { tree } = context, root = null;
  const holder = h("div", { class: "scrolled icicles" });
  const crumbs = h("nav", { class: "crumbs", "aria-label": "Clusters above" });
  left.append(h("div", { class: "tools" }, crumbs, h("span", { class: "faint" }, "Width shows the number of items. Click or press Enter to zoom to a cluster.")), holder);
  const watch = new ResizeObserver(() => draw());

  function draw() {
    const inside = getComputedStyle(holder), padding = parseFloat(inside.paddingLeft);
    const full = Math.max(holder.clientWidth - 2 * padding, 200), dark = isDark();
    const [topLevel, ids] = root ? [root[0], [root[1]]] : [tree.nLevels, tree.roots];
    const row = Math.max(Math.floor((holder.clientHeight - 2 * padding - 4) / topLevel), LOWEST);
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
    for (const id of ids) { const own = full * tree.size(topLevel, id) / all; lay(topLevel, id, at, own); at += own; }
    const cells = found.map(([level, id, x, wide]) => {
      const title = tree.title(level, id), mine = selected && selected[0] === level && selected[1] === id;
      const y = (topLevel - level) * row;
      return svg("a", { href: context.link({ cluster: [level, id], item: null }), "aria-label": `${title}, level ${level}, ${count(tree.size(level, id))} items`, "aria-current": mine ? "true" : null },
        svg("title", {}, `${title} · ${count(tree.size(level, id))} items · ${share(tree.size(level, id), tree.nItems)}`),
        svg("rect", { x: x + 0.5, y: y + 0.5, width: Math.max(wide - 1, 1), height: row - 1, rx: 3, fill: colour(tree.tops[level - 1][id], dark) }),
        labelled(printable(title), `${count(tree.size(level, id))} items`, x, y, wide, row));
    });
    clear(holder, svg("svg", { width: full, height, viewBox: `0 0 ${full} ${height}`, role: "group", "aria-label": "Icicle of the clusters" },
      rests.map(([level, x, wide]) => svg("rect", { class: "rest", x, y: (topLevel - level) * row + 0.5, width: Math.max(wide - 1, 0), height: row - 1, rx: 3 }, svg("title", {}, "More clusters, too narrow to draw. Select the cluster above to see them."))), cells));
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

"use strict";
// The map: bubbles of one level, and under them the items as density or points.

import { get, isDark } from "./api.js";
import { clear, count, cut, download, h, say, share } from "./dom.js";
import { CanvasPen, SvgPen } from "./pens.js";
import { writeLabels } from "./labels.js";
import { drawLegend, Shades } from "./shades.js";
import { Glimpses } from "./glimpses.js";
import { inside } from "./marks.js";

const MARGIN = 48, LEAST = 3.5, LARGEST = 44, COVER = 0.1, LABELS = 60, IN_VIEW = 80, POINT_LEAVES = 24, POINT_ITEMS = 60_000;
// Clusters of the level above that are labelled, and how far from its middle a label may be.
const UPPER = 30, REACH = 160;
// Fewer items than these are drawn larger.
const FEW = 400;
const SCALES = { sqrt: Math.sqrt, linear: (n) => n, log: (n) => Math.log1p(n) };

export function mapView(left, context) {
  let tree = context.tree, selected = context.here.cluster, item = context.here.item, marks = context.marks;
  let space = "direct", scale = "sqrt", level = "auto", focus = null, solid = false;
  let zoom = 1, middle = [0, 0], yaw = 0.6, pitch = 0.4, at = null, placed = [], waiting, described = null, turn = 0;
  // The item that the keyboard is at, the spot of the selected item, and the corners of the lasso.
  let atItem = null, itemSpot = null, lasso = null, isLassoing = false;
  // What is drawn of items: of the cluster that is drilled into, and of leaves that are near.
  let items = null;
  const nearPoints = new Map();
  const shades = new Shades(tree), glimpses = new Glimpses(context);

  const canvas = h("canvas", { tabindex: "0", role: "application", "aria-roledescription": "map", "aria-label": "Map of the clusters", "aria-describedby": "keys" });
  const tip = h("div", { class: "tip", hidden: true });
  const notice = h("p", { class: "notice faint", hidden: true });
  const crumbs = h("nav", { class: "crumbs", "aria-label": "Clusters opened on the map" });
  const levels = h("select", { onchange: (event) => { level = event.target.value === "auto" ? "auto" : Number(event.target.value); draw(); } });
  const has3d = () => places(tree.nLevels)?.length > 2;
  const button = (text, label, action) => h("button", { "aria-label": label, title: label, onclick: action }, text);
  const legend = h("div", { class: "legend", role: "group", "aria-label": "Legend: each entry hides or shows its items" });
  const colours = h("select", { onchange: (event) => setColours(event.target.value) },
    h("option", { value: "topic" }, "topic"), h("option", { value: "level" }, "cluster in view"), h("option", { value: "score" }, "label score"));
  const lassoButton = h("button", { "aria-pressed": "false", title: "Draw around items to list and save them", onclick: () => setLasso(!isLassoing) }, "Lasso");
  const spaceField = h("select", { onchange: (event) => setSpace(event.target.value) },
    h("option", { value: "direct" }, "by items"), h("option", { value: "descriptions" }, "by descriptions"));
  const solidField = h("input", { type: "checkbox", onchange: (event) => { solid = event.target.checked; fit(); } });
  const solidLabel = h("label", {}, solidField, "3D");
  left.append(
    h("div", { class: "tools" },
      h("label", {}, "Level ", levels),
      h("label", {}, "Colour ", colours),
      h("label", {}, "Size ", h("select", { onchange: (event) => { scale = event.target.value; draw(); } },
        h("option", { value: "sqrt" }, "square root"), h("option", { value: "linear" }, "linear"), h("option", { value: "log" }, "log"))),
      h("label", {}, "Layout ", spaceField), solidLabel,
      h("span", { class: "row" }, button("+", "Zoom in", () => zoomBy(1.5)), button("−", "Zoom out", () => zoomBy(1 / 1.5)), button("Fit", "Fit to the window", fit), button("Up", "Back to the cluster above", up))),
    h("div", { class: "tools slim" }, crumbs, h("span", { class: "row last" }, lassoButton, button("PNG", "Save the map as PNG", savePng), button("SVG", "Save the map as SVG", saveSvg))),
    legend, h("div", { class: "canvas" }, canvas, tip, notice),
    h("p", { id: "keys", class: "hidden" }, "Arrow keys go from bubble to bubble, or from item to item within a finest cluster. Enter selects, Enter again opens the cluster, Backspace goes up, plus and minus zoom, 0 fits, Escape clears."));

  const places = (number) => space === "direct" ? tree.level(number).places : described?.[number - 1];
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  function setSpace(value) {
    const done = () => { space = value; items = null; nearPoints.clear(); solid = solid && has3d(); fit(); loadItems(); };
    if (value === "direct" || described) return done();
    tell("Reading the descriptions …");
    return get(`runs/${context.run}/descriptions`).then((found) => { described = found; done(); })
      .catch((error) => { spaceField.value = space; tell(error.message); });
  }
  async function setColours(by) {
    const isColumn = by.startsWith("=");
    try {
      if (isColumn) tell("Reading the column …");
      const values = isColumn ? await get(`runs/${context.run}/shades`, { by: by.slice(1) }) : null;
      if (colours.value !== by) return;
      const reads = isColumn || shades.isColumn;
      shades.choose(isColumn ? by.slice(1) : by, values);
      draw();
      if (reads) { nearPoints.clear(); loadItems(); }
    } catch (error) { colours.value = shades.isColumn ? `=${shades.by}` : shades.by; tell(error.message); }
  }
  const asColoured = (query) => shades.isColumn ? { ...query, by: shades.by } : query;
  function setLasso(on) {
    isLassoing = on;
    lassoButton.setAttribute("aria-pressed", String(on));
    canvas.classList.toggle("draws", on);
    if (on) say("Draw around items on the map");
  }
  function tell(text) { notice.hidden = !text; notice.textContent = text ?? ""; if (text) say(text); }

  /** Ids of a level that are drawn: those within the cluster that is drilled into. */
  function members(number) {
    if (!focus) return tree.level(number).title.map((_, id) => id);
    if (number >= focus[0]) return number === focus[0] ? [focus[1]] : [];
    let ids = [focus[1]];
    for (let down = focus[0]; down > number; down--) ids = ids.flatMap((id) => tree.below(down, id));
    return ids;
  }

  // From the map's coordinates to the window's.
  let frame = { x: 0, y: 0, z: 0, k: 1, reach: [0, 0] };
  function rotated(x, y, z) {
    if (!solid) return [x, y, 0];
    const [dx, dy, dz] = [x - frame.x, y - frame.y, z - frame.z];
    const [sin, cos, up, flat] = [Math.sin(yaw), Math.cos(yaw), Math.sin(pitch), Math.cos(pitch)];
    const x1 = dx * cos + dz * sin, z1 = dz * cos - dx * sin;
    return [frame.x + x1, frame.y + dy * flat - z1 * up, z1 * flat + dy * up];
  }
  function project(axes, index) {
    const [x, y, z] = rotated(axes[0][index], axes[1][index], axes[2]?.[index] ?? 0);
    return [canvas.clientWidth / 2 + (x - middle[0]) * frame.k * zoom, canvas.clientHeight / 2 - (y - middle[1]) * frame.k * zoom, z];
  }
  function fit() {
    const number = focus ? Math.max(focus[0] - 1, 1) : 1;
    let axes = places(number), ids = members(number);
    // The items reach farther than the centroids.
    if (items?.kind === "points" && space === "direct") { axes = items.places; ids = items.rows.map((_, index) => index); }
    if (!axes?.length || !ids.length) { draw(); return; }
    const bounds = axes.map((axis) => ids.reduce(([low, high], id) => axis[id] === null ? [low, high] : [Math.min(low, axis[id]), Math.max(high, axis[id])], [Infinity, -Infinity]));
    const [x, y, z] = bounds.map(([low, high]) => (low + high) / 2);
    const spans = bounds.map(([low, high]) => high - low);
    const wide = Math.max(canvas.clientWidth - 2 * MARGIN, 60), high = Math.max(canvas.clientHeight - 2 * MARGIN, 60);
    const k = solid ? Math.min(wide, high) / Math.hypot(...spans) : Math.min(wide / spans[0], high / spans[1]);
    const half = Math.hypot(...spans) / 2;
    frame = { x, y, z: z ?? 0, k: Number.isFinite(k) && k > 0 ? k : 100, reach: solid ? [half, half] : spans.slice(0, 2).map((span) => span / 2) };
    middle = [x, y];
    zoom = 1;
    draw();
  }

  const isFocus = ([level, id]) => focus !== null && focus[0] === level && focus[1] === id;
  const inView = ([x, y]) => x > -LARGEST && y > -LARGEST && x < canvas.clientWidth + LARGEST && y < canvas.clientHeight + LARGEST;
  function shownLevel() {
    const finest = focus ? Math.min(focus[0] - 1, tree.nLevels) : tree.nLevels;
    if (level !== "auto") return focus ? Math.min(level, Math.max(focus[0] - 1, 0)) : level;
    if (finest < 1) return 0;
    // The finest level of which not too many are in view.
    for (let number = 1; number < finest; number++) {
      const axes = places(number);
      if (!axes?.length) return finest;
      let n = 0;
      for (const id of members(number)) if (inView(project(axes, id)) && ++n > IN_VIEW) break;
      if (n <= IN_VIEW) return number;
    }
    return finest;
  }
  function lit(number, id) {
    if (!selected) return true;
    return number <= selected[0] ? tree.ancestor(number, id, selected[0]) === selected[1] : tree.ancestor(...selected, number) === id;
  }

  function paint(pen, number) {
    const dark = isDark(), back = css("--back"), text = css("--text"), line = css("--faint");
    pen.begin(back);
    if (shades.prepare(focus, number, members)) drawLegend(legend, shades, dark, draw);
    if (space === "direct") paintItems(pen, dark, css("--mark"));
    placed = [];
    const mine = number > 0 ? paintBubbles(pen, number, dark, back, text, line) : null;
    const rings = paintMarks(pen, back, text);
    if (number > 0) paintLabels(pen, number, mine, rings, text, back);
    if (lasso) pen.path(lasso, css("--focus"), css("--focus"));
  }
  function paintBubbles(pen, number, dark, back, text, line) {
    const axes = places(number);
    if (!axes?.length) { tell("These clusters have no place on the map."); return; }
    const f = SCALES[scale], sizes = tree.level(number).n_items, ids = members(number);
    const largest = f(ids.reduce((most, id) => Math.max(most, sizes[id]), 1));
    // All bubbles together cover a tenth of the window; they grow slower than the map does.
    const covered = Math.PI * ids.reduce((sum, id) => sum + (f(sizes[id]) / largest) ** 2, 0);
    const widest = Math.sqrt(COVER * canvas.clientWidth * canvas.clientHeight / covered) * Math.max(zoom, 1) ** 0.5;
    const most = Math.min(Math.max(widest, 2 * LEAST), LARGEST);
    for (const id of ids) {
      const spot = project(axes, id), entry = shades.of(number, id);
      if (axes[0][id] === null || shades.isOff(entry) || !inView(spot)) continue;
      placed.push({ id, entry, x: spot[0], y: spot[1], z: spot[2], r: LEAST + (most - LEAST) * f(sizes[id]) / largest, lit: lit(number, id) });
    }
    placed.sort((a, b) => solid ? a.z - b.z : b.r - a.r);
    paintLinks(pen, line);
    for (const each of placed) pen.circle(each.x, each.y, each.r, shades.colour(each.entry, dark), back, each.lit ? 0.75 : 0.12);
    let mine = selected?.[0] === number && placed.find((each) => each.id === selected[1]);
    if (!mine && selected && item === null && !isFocus(selected) && places(selected[0])?.length) {
      // It is of another level than those that are drawn.
      const [x, y] = project(places(selected[0]), selected[1]);
      mine = { id: selected[1], level: selected[0], x, y, r: 9, lit: true };
      pen.circle(x, y, mine.r, shades.colour(shades.of(...selected), dark), back, 1);
    }
    if (mine) pen.circle(mine.x, mine.y, mine.r + 3, null, text, 1, 2.5);
    const here = at !== null && placed.find((each) => each.id === at);
    if (here && document.activeElement === canvas) pen.circle(here.x, here.y, here.r + 5, null, css("--focus"), 1, 2);
    return mine || null;
  }
  function paintLabels(pen, number, mine, rings, text, back) {
    const titled = (level, spot) => ({ ...spot, title: tree.title(level, spot.id) });
    const order = placed.filter((each) => each.lit && each !== mine).sort((a, b) => b.r - a.r);
    writeLabels(pen, [canvas.clientWidth, canvas.clientHeight], [...placed, ...rings, ...(mine ? [mine] : [])],
      [...(mine ? [titled(mine.level ?? number, mine)] : []), ...upper(number).map((each) => titled(number + 1, each)), ...order.map((each) => titled(number, each))], LABELS, text, back);
  }
  /** Clusters of the level above that are in view, if they are few. */
  function upper(number) {
    const above = number + 1, axes = above < (focus ? focus[0] : tree.nLevels + 1) ? places(above) : null;
    if (!axes?.length) return [];
    const found = members(above).filter((id) => lit(above, id) && !(selected?.[0] === above && selected[1] === id) && !shades.isOff(shades.of(above, id)) && axes[0][id] !== null)
      .map((id) => { const spot = project(axes, id); return { id, x: spot[0], y: spot[1], r: 0, reach: REACH }; }).filter((each) => inView([each.x, each.y]));
    return found.length > UPPER ? [] : found.sort((a, b) => tree.size(above, b.id) - tree.size(above, a.id));
  }
  /** The selected item, the item that the keyboard is at, and what a search or the lasso has found. */
  function paintMarks(pen, back, text) {
    const rings = [], ring = (x, y, r, line, thick) => { rings.push({ x, y, r }); pen.circle(x, y, r + 1.5, null, back, 1, thick + 2); pen.circle(x, y, r, null, line, 1, thick); };
    const mark = css("--mark");
    for (const [level, id] of marks?.clusters ?? []) {
      const axes = places(level);
      if (!axes?.length || axes[0][id] === null) continue;
      const [x, y] = project(axes, id);
      ring(x, y, ((level === shown && placed.find((each) => each.id === id)?.r) || 6) + 3, mark, 2.5);
    }
    if (space !== "direct") return rings;
    for (const spot of marks?.spots ?? []) if (spot.length > 1) { const [x, y] = project(spot.map((each) => [each]), 0); ring(x, y, 5, mark, 2.5); }
    if (item !== null) {
      let spot = itemSpot;
      for (const set of [items, ...nearPoints.values()]) { const index = set?.kind === "points" ? set.rows.indexOf(item) : -1; if (index >= 0) spot = set.places.map((axis) => axis[index]); }
      if (spot?.length > 1) { const [x, y] = project(spot.map((each) => [each]), 0); ring(x, y, 7, text, 3); }
    }
    if (atItem && document.activeElement === canvas) { const [x, y] = project(atItem.set.places, atItem.index); ring(x, y, 9, css("--focus"), 2); }
    return rings;
  }
  /** From what is selected to the cluster above it and to those below. */
  function paintLinks(pen, line) {
    if (!selected || isFocus(selected)) return;
    const [number, id] = selected, from = places(number);
    if (!from?.length) return;
    const start = project(from, id);
    const join = (axes, other) => { const end = project(axes, other); pen.line(start[0], start[1], end[0], end[1], line, 0.5); };
    if (number < tree.nLevels && places(number + 1)?.length) join(places(number + 1), tree.parent(number, id));
    if (number > 1 && places(number - 1)?.length) for (const child of tree.below(number, id).slice(0, 200)) join(places(number - 1), child);
  }
  function paintItems(pen, dark, marking) {
    const sets = [items, ...nearPoints.values()].filter(Boolean);
    for (const set of sets) {
      if (set.kind === "density") {
        if (solid) continue;
        const [x0, y0, x1, y1] = set.box, n = set.grid, most = Math.log1p(Math.max(...set.counts));
        const a = project([[x0], [y0]], 0), b = project([[x1], [y1]], 0);
        // Whole pixels, since cells that overlap would show as lines.
        const columns = Array.from({ length: n + 1 }, (_, index) => Math.round(a[0] + (b[0] - a[0]) * index / n));
        const rows = Array.from({ length: n + 1 }, (_, index) => Math.round(a[1] + (b[1] - a[1]) * index / n));
        set.counts.forEach((each, index) => {
          if (!each) return;
          const column = Math.floor(index / n), row = index % n, x = columns[column], y = rows[row + 1];
          const wide = Math.max(columns[column + 1] - x, 1), high = Math.max(rows[row] - y, 1);
          if (x + wide < 0 || y + high < 0 || x > canvas.clientWidth || y > canvas.clientHeight) return;
          pen.rect(x, y, wide, high, dark ? "#9fb4d0" : "#4a6a95", 0.05 + 0.3 * Math.log1p(each) / most);
        });
        continue;
      }
      const size = set.rows.length < FEW ? 5 : 2.5;
      set.rows.forEach((row, index) => {
        const spot = project(set.places, index), entry = shades.ofItem(set, index);
        if (shades.isOff(entry) || !inView(spot)) return;
        if (marks?.rows.has(row)) pen.rect(spot[0] - size, spot[1] - size, 2 * size, 2 * size, marking, 1);
        pen.rect(spot[0] - size / 2, spot[1] - size / 2, size, size, shades.colour(entry, dark), lit(1, set.leaves[index]) ? 0.75 : 0.1);
      });
    }
  }

  let shown = 0, asked = false;
  function draw() {
    if (asked) return;
    asked = true;
    requestAnimationFrame(() => {
      asked = false;
      if (!canvas.isConnected || !canvas.clientWidth) return;
      shown = shownLevel();
      tell(null);
      paint(new CanvasPen(canvas), shown);
      canvas.setAttribute("data-level", shown);
      canvas.setAttribute("data-shown", placed.length);
      canvas.setAttribute("data-points", items?.kind === "points" ? items.rows.length : [...nearPoints.values()].reduce((sum, each) => sum + each.rows.length, 0));
      canvas.setAttribute("data-density", items?.kind === "density" ? "yes" : "no");
      clearTimeout(waiting);
      waiting = setTimeout(loadNear, 250);
    });
  }

  async function loadItems() {
    const mine = ++turn;
    if (space !== "direct") { items = null; return; }
    try {
      const found = await get(`runs/${context.run}/points`, asColoured(focus ? { level: focus[0], id: focus[1] } : {}));
      if (mine !== turn) return;
      items = found;
      if (zoom === 1) fit(); else draw();
    } catch (error) { if (mine === turn) tell(error.message); }
  }
  /** Near enough, items come out as points. */
  async function loadNear() {
    if (space !== "direct" || items?.kind === "points" || shown !== 1) { if (nearPoints.size && shown !== 1) { nearPoints.clear(); draw(); } return; }
    const leaves = placed.map((each) => each.id);
    const total = leaves.reduce((sum, id) => sum + tree.size(1, id), 0);
    if (leaves.length > POINT_LEAVES || total > POINT_ITEMS) return;
    const missing = leaves.filter((id) => !nearPoints.has(id) && tree.size(1, id) <= 20_000);
    for (const id of [...nearPoints.keys()]) if (!leaves.includes(id)) nearPoints.delete(id);
    if (!missing.length) return;
    try {
      const found = await Promise.all(missing.map((id) => get(`runs/${context.run}/points`, asColoured({ level: 1, id }))));
      missing.forEach((id, place) => { if (found[place].kind === "points") nearPoints.set(id, found[place]); });
      draw();
    } catch (error) { tell(error.message); }
  }

  function zoomBy(factor, x = canvas.clientWidth / 2, y = canvas.clientHeight / 2) {
    // Out to a little more than all of it, in until few items are in view.
    const next = Math.min(Math.max(zoom * factor, 0.8), Math.max(1.2 * Math.sqrt(tree.nItems), 20)), k = frame.k;
    middle[0] += (x - canvas.clientWidth / 2) / k * (1 / zoom - 1 / next);
    middle[1] -= (y - canvas.clientHeight / 2) / k * (1 / zoom - 1 / next);
    zoom = next;
    stay();
    draw();
  }
  /** Keeps the middle of the window within the data. */
  function stay() {
    middle = middle.map((value, axis) => { const from = axis ? frame.y : frame.x; return Math.min(Math.max(value, from - frame.reach[axis]), from + frame.reach[axis]); });
  }
  function drill(cluster) {
    focus = cluster;
    at = atItem = null;
    tip.hidden = true;
    items = null;
    nearPoints.clear();
    level = levels.value = "auto";
    loadItems();
    trail();
    fit();
    say(cluster ? `Opened ${tree.title(...cluster)}` : "All clusters");
  }
  function up() {
    if (!focus) return;
    drill(focus[0] < tree.nLevels ? [focus[0] + 1, tree.parent(...focus)] : null);
  }
  function trail() {
    const path = focus ? tree.path(...focus) : [];
    const step = (name, cluster) => h("li", {}, h("button", { class: "plain", onclick: () => drill(cluster) }, name));
    clear(crumbs, h("ol", {}, step("All items", null), path.map((each) => step(cut(tree.title(...each), 40), each))));
  }

  function hit(x, y) {
    for (let index = placed.length - 1; index >= 0; index--) {
      const each = placed[index];
      if (Math.hypot(each.x - x, each.y - y) <= each.r + 2) return each;
    }
    return null;
  }
  /** Calls back with the set, index, x and y of each item that is drawn. */
  function eachItem(found) {
    if (space !== "direct") return;
    for (const set of [items, ...nearPoints.values()])
      if (set?.kind === "points") set.rows.forEach((_, index) => {
        if (!shades.isOff(shades.ofItem(set, index))) found(set, index, ...project(set.places, index));
      });
  }
  function hitItem(x, y) {
    let best = null, least = 6;
    eachItem((set, index, ownX, ownY) => {
      const far = Math.hypot(ownX - x, ownY - y);
      if (far < least) { least = far; best = { set, index, x: ownX, y: ownY }; }
    });
    return best;
  }
  function showTip(each, content) {
    clear(tip, content);
    tip.hidden = false;
    const wide = tip.offsetWidth, x = Math.min(Math.max(each.x - wide / 2, 4), Math.max(canvas.clientWidth - wide - 4, 4));
    const y = each.y - (each.r ?? 4) - tip.offsetHeight - 8;
    tip.style.transform = `translate(${x}px, ${y < 2 ? each.y + (each.r ?? 4) + 8 : y}px)`;
  }
  /** Shows the title of an item's finest cluster at once, and its text as soon as it is there. */
  function showItem({ set, index }, spot, speaks = false) {
    const title = tree.title(1, set.leaves[index]);
    glimpses.of(set.start + index, (found) => {
      showTip(spot, glimpses.content(found, title));
      if (found && speaks) say(`${glimpses.words(found)}. In ${title}`);
    });
  }
  const about = (id) => `${tree.title(shown, id)} · ${count(tree.size(shown, id))} items (${share(tree.size(shown, id), tree.nItems)}) · level ${shown}`;

  const pointers = new Map();
  let moved = 0;
  canvas.addEventListener("pointerdown", (event) => { canvas.setPointerCapture(event.pointerId); pointers.set(event.pointerId, [event.offsetX, event.offsetY]); moved = 0; lasso = isLassoing && pointers.size === 1 ? [[event.offsetX, event.offsetY]] : null; tip.hidden = true; glimpses.stop(); });
  canvas.addEventListener("pointermove", (event) => {
    const before = pointers.get(event.pointerId), pointer = { x: event.offsetX, y: event.offsetY, r: 8 };
    if (!before) {
      const bubble = hit(pointer.x, pointer.y), point = bubble ? null : hitItem(pointer.x, pointer.y);
      canvas.classList.toggle("over", Boolean(bubble || point));
      if (!point) glimpses.stop();
      if (bubble) showTip(pointer, about(bubble.id));
      else if (point) showItem(point, pointer);
      else tip.hidden = true;
      return;
    }
    if (lasso) { lasso.push([pointer.x, pointer.y]); draw(); return; }
    const [dx, dy] = [event.offsetX - before[0], event.offsetY - before[1]];
    if (pointers.size === 2) {
      const other = [...pointers].find(([id]) => id !== event.pointerId)[1];
      const was = Math.hypot(before[0] - other[0], before[1] - other[1]), is = Math.hypot(event.offsetX - other[0], event.offsetY - other[1]);
      if (was > 0) zoomBy(is / was, (event.offsetX + other[0]) / 2, (event.offsetY + other[1]) / 2);
    } else if (solid && !event.shiftKey) { yaw += dx / 150; pitch += dy / 150; }
    else { middle[0] -= dx / frame.k / zoom; middle[1] += dy / frame.k / zoom; stay(); }
    moved += Math.hypot(dx, dy);
    pointers.set(event.pointerId, [event.offsetX, event.offsetY]);
    tip.hidden = true;
    draw();
  });
  const release = (event) => {
    pointers.delete(event.pointerId);
    if (!lasso) return;
    const corners = lasso;
    lasso = null;
    if (event.type === "pointerup" && corners.length > 2) { moved = Infinity; mark(corners); setLasso(false); }
    draw();
  };
  /** Marks the items inside of a lasso; where none are drawn, the clusters. */
  function mark(corners) {
    const rows = [], places = [], clusters = [];
    eachItem((set, index, x, y) => { if (inside(corners, x, y)) { rows.push(set.rows[index]); places.push(set.start + index); } });
    if (!rows.length) for (const each of placed) if (inside(corners, each.x, each.y)) clusters.push([shown, each.id]);
    context.mark(rows.length || clusters.length ? { title: "Inside the lasso", rows: new Set(rows), places, clusters } : null);
    context.go({ cluster: null, item: null });
    say(rows.length ? `${count(rows.length)} items marked` : `${count(clusters.length)} clusters marked`);
  }
  canvas.addEventListener("pointerup", release);
  canvas.addEventListener("pointercancel", release);
  canvas.addEventListener("pointerleave", () => { tip.hidden = true; glimpses.stop(); });
  canvas.addEventListener("click", (event) => {
    if (moved > 5) return;
    const bubble = hit(event.offsetX, event.offsetY), point = bubble ? null : hitItem(event.offsetX, event.offsetY);
    if (bubble) { at = bubble.id; context.go({ cluster: [shown, bubble.id], item: null }); }
    else if (point) goToItem(point);
    else context.go({ cluster: null, item: null });
  });
  const goToItem = ({ set, index }) => context.go({ item: set.rows[index], cluster: [1, set.leaves[index]] });
  canvas.addEventListener("dblclick", (event) => {
    const bubble = hit(event.offsetX, event.offsetY);
    if (bubble) drill([shown, bubble.id]); else zoomBy(2, event.offsetX, event.offsetY);
  });
  canvas.addEventListener("wheel", (event) => { event.preventDefault(); zoomBy(Math.exp(-event.deltaY / 400), event.offsetX, event.offsetY); }, { passive: false });
  canvas.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (step && !placed.length) stepItem(step);
    else if (step) {
      const from = placed.find((each) => each.id === at) ?? { x: canvas.clientWidth / 2, y: canvas.clientHeight / 2 };
      let best = null, least = Infinity;
      for (const each of placed) {
        const [dx, dy] = [each.x - from.x, each.y - from.y], along = dx * step[0] + dy * step[1], aside = Math.abs(dx * step[1]) + Math.abs(dy * step[0]);
        if (each.id !== at && along > 0 && along + 2 * aside < least) { least = along + 2 * aside; best = each; }
      }
      if (at === null && !best) [best] = placed;
      if (best) { at = best.id; say(about(at)); showTip(best, about(at)); draw(); }
    } else if (event.key === "Enter" && !placed.length && atItem) goToItem(atItem);
    else if (event.key === "Enter" && at !== null) {
      if (selected?.[0] === shown && selected[1] === at) drill([shown, at]); else context.go({ cluster: [shown, at], item: null });
    } else if (event.key === "Backspace") up();
    else if (event.key === "Escape") { if (tip.hidden) context.go({ cluster: null, item: null }); else { tip.hidden = true; glimpses.stop(); } }
    else if (event.key === "+" || event.key === "=") zoomBy(1.5);
    else if (event.key === "-") zoomBy(1 / 1.5);
    else if (event.key === "0") fit();
    else return;
    event.preventDefault();
  });
  function stepItem([right, down]) {
    const from = atItem ? project(atItem.set.places, atItem.index) : [canvas.clientWidth / 2, canvas.clientHeight / 2];
    let best = null, least = Infinity;
    eachItem((set, index, x, y) => {
      const [dx, dy] = [x - from[0], y - from[1]], along = dx * right + dy * down, far = along + 2 * Math.abs(dx * down) + 2 * Math.abs(dy * right);
      if ((atItem ? along > 0 && !(atItem.set === set && atItem.index === index) : true) && inView([x, y]) && (atItem ? far : Math.hypot(dx, dy)) < least) { least = atItem ? far : Math.hypot(dx, dy); best = { set, index, x, y, r: 9 }; }
    });
    if (!best) return;
    atItem = best;
    showItem(best, best, true);
    draw();
  }
  canvas.addEventListener("focus", draw);
  canvas.addEventListener("blur", () => { tip.hidden = true; draw(); });

  function savePng() { canvas.toBlob((blob) => download(`${tree.name}-map.png`, blob)); }
  function saveSvg() {
    const pen = new SvgPen(canvas.clientWidth, canvas.clientHeight);
    paint(pen, shown);
    download(`${tree.name}-map.svg`, new Blob([pen.finish()], { type: "image/svg+xml" }));
  }

  clear(levels, h("option", { value: "auto" }, "by zoom"),
    tree.levels.map((each, index) => h("option", { value: index + 1 }, `${index + 1} (${count(each.title.length)})`)).reverse());
  solidLabel.hidden = !has3d();
  trail();
  get(`runs/${context.run}/shade_columns`).then((found) => colours.append(...found.map((each) => h("option", { value: `=${each.name}` }, each.kind === "margin" ? "margin" : each.name)))).catch(() => { /* The select keeps what needs no column. */ });
  async function findItem() {
    const row = item;
    itemSpot = null;
    if (row === null) return;
    try { const [spot] = await get(`runs/${context.run}/spots`, { rows: row }); if (row === item) { itemSpot = spot; draw(); } } catch { /* It is marked where it is drawn. */ }
  }
  const watch = new ResizeObserver(() => (zoom === 1 ? fit() : draw()));
  watch.observe(canvas);
  const theme = matchMedia("(prefers-color-scheme: dark)");
  const repaint = () => { drawLegend(legend, shades, isDark(), draw); draw(); };
  theme.addEventListener("change", repaint);
  loadItems();
  findItem();
  return {
    update(next) {
      const isOther = next.here.item !== item;
      context = next;
      if (tree !== next.tree) { tree = shades.tree = next.tree; shades.known = null; }
      selected = next.here.cluster;
      item = next.here.item;
      marks = next.marks;
      if (isOther) findItem();
      draw();
    },
    end() { watch.disconnect(); theme.removeEventListener("change", repaint); clearTimeout(waiting); glimpses.stop(); },
  };
}

"use strict";
import { clear, count, h, say, share } from "./dom.js";
import { colour, isDark } from "./api.js";

const SHOWN = 200;

/** The tree, opened where a reader opens it; arrows, Home, End, Enter and letters as in any tree. */
export function treeView(left, context) {
  let { tree } = context;
  const field = h("input", { type: "search", id: "find", placeholder: "Find in titles", "aria-label": "Find in titles", autocomplete: "off" });
  const found = h("span", { class: "faint", role: "status" });
  const list = h("ul", { role: "tree", "aria-label": "Clusters", class: "branches" });
  const opened = new Set();
  const key = (level, id) => `${level}/${id}`;
  let kept = null, hits = null, selected = context.here.cluster, waiting;

  const toLevel = h("div", { class: "row", role: "group", "aria-label": "Expand to a level" }, h("span", { class: "faint" }, "Expand to"),
    Array.from({ length: tree.nLevels }, (_, index) => tree.nLevels - index).map((level) =>
      h("button", { onclick: () => openTo(level) }, `level ${level}`)));
  left.append(h("div", { class: "tools" }, field, toLevel, found), h("div", { class: "scrolled" }, list));

  function openTo(level) {
    opened.clear();
    let many = 0;
    for (let at = tree.nLevels; at > level; at--)
      for (let id = 0; id < tree.level(at).title.length && many < 5000; id++, many++) opened.add(key(at, id));
    draw();
  }

  function node(level, id, siblings, place) {
    const below = tree.below(level, id).filter((child) => !kept || kept.has(key(level - 1, child)));
    const isOpen = opened.has(key(level, id));
    const mine = selected && selected[0] === level && selected[1] === id;
    const mark = tree.level(level).mark[id];
    const item = h("li", {
      role: "treeitem", id: `t${level}-${id}`, tabindex: "-1", "data-level": level, "data-id": id, "aria-level": tree.nLevels - level + 1,
      "aria-setsize": siblings, "aria-posinset": place + 1, "aria-selected": mine ? "true" : "false",
      "aria-expanded": below.length ? String(isOpen) : null,
      "aria-label": `${tree.title(level, id)}, ${count(tree.size(level, id))} items${mark && `, ${mark}`}`,
    },
    h("div", { class: `node${hits?.has(key(level, id)) ? " hit" : ""}` },
      h("span", { class: "turn", "aria-hidden": "true" }, below.length ? (isOpen ? "▾" : "▸") : ""),
      h("span", { class: "dot", style: { background: colour(tree.tops[level - 1][id], isDark()) } }),
      h("span", { class: "title" }, tree.title(level, id)),
      mark && h("mark", {}, mark),
      h("span", { class: "bar", "aria-hidden": "true" }, h("i", { style: { width: `${100 * tree.size(level, id) / Math.max(tree.nItems, 1)}%` } })),
      h("span", { class: "size" }, count(tree.size(level, id)), h("i", {}, ` · ${share(tree.size(level, id), tree.nItems)}`))));
    if (isOpen && below.length) item.append(branch(level - 1, below));
    return item;
  }

  function branch(level, ids) {
    const group = h("ul", { role: "group" });
    let shown = 0;
    const more = () => {
      const until = Math.min(shown + SHOWN, ids.length);
      for (; shown < until; shown++) group.append(node(level, ids[shown], ids.length, shown));
      if (shown < ids.length) {
        const rest = h("li", { role: "treeitem", tabindex: "-1", class: "more", "aria-level": tree.nLevels - level + 1, "aria-selected": "false" }, `${count(ids.length - shown)} more …`);
        rest.addEventListener("click", (event) => { event.stopPropagation(); rest.remove(); more(); });
        group.append(rest);
      }
    };
    more();
    return group;
  }

  function draw(focus = null) {
    const roots = tree.roots.filter((id) => !kept || kept.has(key(tree.nLevels, id)));
    clear(list, [...branch(tree.nLevels, roots).children]);
    const first = (focus && document.getElementById(focus)) ?? list.querySelector("[aria-selected=true]") ?? list.firstElementChild;
    if (first) first.tabIndex = 0;
    if (focus) document.getElementById(focus)?.focus();
  }

  function toggle(item, open) {
    const name = key(item.dataset.level, item.dataset.id);
    if (open) opened.add(name); else opened.delete(name);
    draw(item.id);
  }

  const focusOn = (item) => {
    if (!item) return;
    list.querySelectorAll("[tabindex='0']").forEach((each) => { each.tabIndex = -1; });
    item.tabIndex = 0;
    item.focus();
  };

  list.addEventListener("click", (event) => {
    const item = event.target.closest("[role=treeitem]");
    if (!item?.dataset.id) return;
    const name = key(item.dataset.level, item.dataset.id);
    if (event.target.closest(".turn")) { toggle(item, !opened.has(name)); return; }
    focusOn(item);
    context.go({ cluster: [Number(item.dataset.level), Number(item.dataset.id)], item: null });
  });
  list.addEventListener("keydown", (event) => {
    const item = event.target.closest("[role=treeitem]");
    if (!item || event.ctrlKey || event.metaKey || event.altKey) return;
    const all = [...list.querySelectorAll("[role=treeitem]")], at = all.indexOf(item);
    const above = item.parentElement.closest("[role=treeitem]");
    const isOpen = item.getAttribute("aria-expanded");
    if (event.key === "ArrowDown") focusOn(all[at + 1]);
    else if (event.key === "ArrowUp") focusOn(all[at - 1]);
    else if (event.key === "Home") focusOn(all[0]);
    else if (event.key === "End") focusOn(all.at(-1));
    else if (event.key === "ArrowRight") { if (isOpen === "false") toggle(item, true); else if (isOpen) focusOn(all[at + 1]); }
    else if (event.key === "ArrowLeft") { if (isOpen === "true") toggle(item, false); else focusOn(above); }
    else if (event.key === "Enter" || event.key === " ") item.click();
    else if (/^\S$/u.test(event.key)) {
      const after = [...all.slice(at + 1), ...all.slice(0, at)];
      focusOn(after.find((each) => each.getAttribute("aria-label").toLowerCase().startsWith(event.key.toLowerCase())));
    } else return;
    event.preventDefault();
  });

  function find() {
    const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
    kept = hits = null;
    if (words.length) {
      kept = new Set();
      hits = new Set();
      opened.clear();
      for (let level = 1; level <= tree.nLevels; level++)
        tree.level(level).title.forEach((title, id) => {
          const lower = title.toLowerCase();
          if (!words.every((word) => lower.includes(word))) return;
          hits.add(key(level, id));
          for (const [at, of] of tree.path(level, id)) {
            kept.add(key(at, of));
            if (at > level) opened.add(key(at, of));
          }
        });
      // What lies under a hit stays, closed.
      for (let level = tree.nLevels; level > 1; level--)
        tree.children[level - 1].forEach((children, id) => {
          if (hits.has(key(level, id)) || (kept.has(key(level, id)) && under(level, id)))
            for (const child of children) kept.add(key(level - 1, child));
        });
    }
    found.textContent = words.length ? `${count(hits.size)} found` : "";
    draw();
  }
  const under = (level, id) => tree.path(level, id).some(([at, of]) => hits.has(key(at, of)));
  field.addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(find, 150); });

  function reveal(cluster) {
    selected = cluster;
    if (cluster) for (const [level, id] of tree.path(...cluster).slice(0, -1)) opened.add(key(level, id));
    const had = list.contains(document.activeElement) ? document.activeElement.id : null;
    draw(had);
    if (cluster) document.getElementById(`t${cluster[0]}-${cluster[1]}`)?.scrollIntoView({ block: "nearest" });
  }
  if (tree.roots.length <= 3) for (const id of tree.roots) opened.add(key(tree.nLevels, id));
  reveal(selected);
  say(`${count(tree.roots.length)} topics`);
  return { update(next) { tree = next.tree; reveal(next.here.cluster); } };
}

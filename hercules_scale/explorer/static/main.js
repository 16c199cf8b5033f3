"use strict";
// What is shown is said by the part of the address after #, so that links and the back button work.

import { get, Tree } from "./api.js";
import { clear, count, h, say } from "./dom.js";
import { clusterPanel, itemPanel } from "./cluster.js";
import { mapView } from "./map.js";
import { treeView } from "./tree.js";
import { icicleView } from "./icicle.js";
import { searchView } from "./search.js";
import { runView } from "./run.js";
import { compareView } from "./compare.js";
import { newView } from "./new.js";

const VIEWS = { map: ["Map", mapView], tree: ["Tree", treeView], icicle: ["Icicle", icicleView], search: ["Search", searchView], run: ["Run", runView], compare: ["Compare", compareView], new: ["New run", newView] };
// Views without the panel of what is selected, and those of them that need no finished run.
const ALONE = ["run", "compare", "new"], ALWAYS = ["run", "new"];
const asked = () => Number(new URLSearchParams(location.hash.slice(1)).get("run")) || 0;
const state = { runs: [], run: 0, tree: null, status: null, view: null, shown: null, marks: null };
let drawn = 0;

function place() {
  const values = new URLSearchParams(location.hash.slice(1));
  const number = (name) => /^\d{1,15}$/.test(values.get(name) ?? "") ? Number(values.get(name)) : null;
  const view = values.get("view");
  const [level, id] = (values.get("cluster") ?? "").split("/").map(Number);
  return {
    run: Math.min(number("run") ?? 0, Math.max(state.runs.length - 1, 0)),
    view: Object.hasOwn(VIEWS, view) ? view : "map",
    cluster: Number.isInteger(level) && Number.isInteger(id) ? [level, id] : null,
    item: number("item"),
    q: values.get("q") ?? "",
    by: values.get("by") === "meaning" ? "meaning" : "words",
    like: number("like"),
  };
}

/** The address of a place that differs from the present one in some values. */
export function link(changes) {
  const next = { ...place(), ...changes };
  const values = new URLSearchParams({ run: next.run, view: next.view });
  if (next.cluster) values.set("cluster", next.cluster.join("/"));
  if (next.item !== null && next.item !== undefined) values.set("item", next.item);
  if (next.view === "search" && next.q) { values.set("q", next.q); values.set("by", next.by); }
  if (next.view === "search" && next.like !== null) values.set("like", next.like);
  return `#${values}`;
}
export const go = (changes) => { location.hash = link(changes); };

function topBar(here) {
  const tabs = Object.entries(VIEWS).map(([name, [title]]) =>
    h("a", { href: link({ view: name, like: null }), "aria-current": here.view === name ? "page" : null }, title));
  const picker = state.runs.length > 1
    ? h("select", { "aria-label": "Run", onchange: (event) => go({ run: Number(event.target.value), cluster: null, item: null }) },
      state.runs.map((name, number) => h("option", { value: number, selected: number === here.run }, name)))
    : h("strong", { class: "name" }, state.runs[0] ?? "");
  clear(document.getElementById("top"), picker,
    state.tree && h("span", { class: "faint amount" }, `${count(state.tree.nItems)} items`),
    state.status && !state.status.finished && h("mark", {}, state.status.status),
    h("nav", { "aria-label": "Views" }, tabs));
}

async function load(run) {
  state.tree = state.marks = null;
  state.status = await get(`runs/${run}/state`);
  if (state.status.has_clusters) state.tree = new Tree(await get(`runs/${run}/tree`));
  state.run = run;
}

/** Reads the clusters again, after somebody has edited one. */
export async function reload() {
  state.tree = new Tree(await get(`runs/${state.run}/tree`));
}

async function show() {
  const turn = ++drawn;
  const main = document.getElementById("main");
  try {
    // Runs that were started from the page come after those that it opened with.
    if (state.runs.length <= asked()) state.runs = await get("runs");
    const here = place();
    const isNew = state.status === null || state.run !== here.run || (!state.tree && state.status.has_clusters);
    if (isNew) {
      clear(main, h("p", { class: "pad", role: "status" }, "Opening the run …"));
      await load(here.run);
    }
    if (turn !== drawn) return;
    if (!state.tree && !ALWAYS.includes(here.view)) here.view = "run";
    if (here.cluster && !(state.tree && state.tree.has(...here.cluster))) here.cluster = null;
    const context = { run: state.run, tree: state.tree, status: state.status, runs: state.runs, here, link, go, reload, again: show, marks: state.marks, mark: (found) => { state.marks = found; }, load: () => load(state.run) };
    topBar(here);
    const [title, view] = VIEWS[here.view];
    document.title = `${title} – ${state.runs[state.run]}`;
    // A view that stays keeps what its reader has opened and zoomed to.
    if (isNew || state.view !== here.view || !state.shown?.update) {
      state.shown?.end?.();
      const left = h("section", { class: `view ${here.view}`, "aria-label": title });
      const right = h("aside", { class: "panel", "aria-label": "Selection" });
      clear(main, h("div", { class: ALONE.includes(here.view) ? "one" : "two" }, left, ALONE.includes(here.view) ? null : right));
      state.view = here.view;
      state.shown = view(left, context) ?? {};
      state.right = right;
    } else state.shown.update(context);
    if (!ALONE.includes(here.view)) await (here.item !== null ? itemPanel : clusterPanel)(state.right, context);
  } catch (error) {
    if (turn !== drawn || error.name === "AbortError") return;
    clear(main, h("div", { class: "pad error", role: "alert" }, h("p", {}, error.message),
      h("button", { onclick: () => { state.status = null; show(); } }, "Try again")));
    say(error.message);
  }
}

addEventListener("hashchange", show);
show();

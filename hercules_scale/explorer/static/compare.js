"use strict";
import { clear, count, h, share, short, table } from "./dom.js";
import { get } from "./api.js";
import { basisName, metricName } from "./words.js";

/** Levels, metrics and clusters of this run beside another that was opened with it. */
export function compareView(left, context) {
  const { run, runs, tree } = context;
  const holder = h("div", { class: "page" });
  left.append(holder);
  const others = runs.map((name, number) => [name, number]).filter(([, number]) => number !== run);
  if (!others.length) {
    clear(holder, h("h1", {}, "Compare"), h("p", {}, "To compare two runs, open both: hercules-scale explore RUN OTHER"));
    return {};
  }
  let other = others[0][1], level = 1, otherLevel = 1, turn = 0;
  const out = h("div", {}), tools = h("div", { class: "row" });
  clear(holder, h("h1", {}, "Compare"), tools, out);

  function pickers(theirs) {
    const pick = (label, values, chosen, change) => h("label", {}, `${label} `, h("select", { onchange: (event) => change(Number(event.target.value)) },
      values.map(([text, value]) => h("option", { value, selected: value === chosen }, text))));
    const levels = (of) => of.levels.map((each, index) => [`${index + 1} (${count(each.title.length)})`, index + 1]);
    clear(tools, pick("Compare with", others, other, (value) => { other = value; otherLevel = 1; open(); }),
      pick("Level in this run", levels(tree), level, (value) => { level = value; draw(theirs); }),
      pick("Level in the other run", levels(theirs), otherLevel, (value) => { otherLevel = value; draw(theirs); }));
  }

  async function open() {
    clear(out, h("p", { role: "status" }, "Reading the other run …"));
    try {
      const theirs = await get(`runs/${other}/tree`);
      await draw(theirs);
    } catch (error) { clear(out, h("p", { role: "alert", class: "error" }, error.message)); }
  }

  async function draw(theirs) {
    const mine = ++turn;
    pickers(theirs);
    clear(out, h("p", { role: "status" }, "Comparing the items …"));
    try {
      const [found, own, foreign] = await Promise.all([
        get(`runs/${run}/compare`, { other, level, other_level: otherLevel }), get(`runs/${run}/evaluations`), get(`runs/${other}/evaluations`)]);
      if (mine !== turn) return;
      clear(out, h("dl", { class: "cards" }, [["Items in both runs", `${count(found.n_common)} of ${count(found.n_items[0])} and ${count(found.n_items[1])}`],
        ["Adjusted Rand index", short(found.ari)], ["Normalised mutual information", short(found.nmi)]].map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value)))),
      h("h2", {}, "Where the items of each cluster are in the other run"),
      table(found.n_clusters > found.clusters.length ? `The ${count(found.clusters.length)} largest of ${count(found.n_clusters)} clusters` : `${count(found.n_clusters)} clusters`,
        [tree.name, "Items", theirs.name], found.clusters.map((each) => [
          h("a", { href: context.link({ view: "tree", cluster: [level, each.id], item: null }) }, tree.title(level, each.id)), count(each.n_common),
          h("ul", {}, each.partners.map((partner) => h("li", {}, `${share(partner.n_items, each.n_common)} `,
            h("a", { href: context.link({ run: other, view: "tree", cluster: [otherLevel, partner.id], item: null }) }, found.other_titles[partner.id]))))]), [1]),
      h("h2", {}, "Metrics"), metrics(own, foreign, tree.name, theirs.name));
    } catch (error) { if (mine === turn) clear(out, h("p", { role: "alert", class: "error" }, error.message)); }
  }
  open();
  return { update(next) { context = next; }, end() { turn = -1; } };
}

function metrics(own, theirs, name, otherName) {
  const key = (row) => JSON.stringify([row.level, row.basis, row.metric]);
  const there = new Map(theirs.map((row) => [key(row), row.value])), here = new Map(own.map((row) => [key(row), row.value]));
  const keys = [...new Set([...own, ...theirs].map(key))];
  return table("Metrics of both runs", ["Level", "Measured on", "Metric", name, otherName], keys.map((each) => [...JSON.parse(each).map((value, place) => [String, basisName, metricName][place](value)), short(here.get(each)), short(there.get(each))]), [0, 3, 4]);
}

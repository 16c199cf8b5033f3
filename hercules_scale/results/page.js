"use strict";
const clusters = [...document.querySelectorAll("#tree details")];
const search = document.getElementById("search");
const found = document.getElementById("found");
// A cluster's own text: its title and what opens under it, not its children.
const texts = clusters.map((cluster) =>
  [".title", "div"].map((part) => cluster.querySelector(part).textContent).join(" ").toLowerCase());
let waiting;

function above(cluster) {
  const parent = cluster.parentElement;
  return parent.localName === "details" ? parent : null;
}

function find() {
  const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
  const hits = new Set(
    clusters.filter((_, index) => words.length && words.every((word) => texts[index].includes(word))));
  const opened = new Set();
  for (const hit of hits)
    for (let up = above(hit); up && !opened.has(up); up = above(up)) opened.add(up);
  const whole = new Set();
  // Parents come before their children here: what lies under a hit stays, closed.
  for (const cluster of clusters) {
    if (hits.has(cluster) || whole.has(above(cluster))) whole.add(cluster);
    cluster.hidden = words.length > 0 && !whole.has(cluster) && !opened.has(cluster);
    cluster.open = opened.has(cluster);
    cluster.classList.toggle("hit", hits.has(cluster));
  }
  found.textContent = words.length ? `${hits.size} of ${clusters.length} clusters` : "";
}

search.addEventListener("input", () => {
  clearTimeout(waiting);
  waiting = setTimeout(find, 150);
});
for (const button of document.querySelectorAll("#tools button"))
  button.addEventListener("click", () => {
    const level = Number(button.dataset.level);
    for (const cluster of clusters) cluster.open = Number(cluster.dataset.level) > level;
  });
document.getElementById("tools").hidden = false;

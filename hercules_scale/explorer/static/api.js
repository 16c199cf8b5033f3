"use strict";
// Requests to the explorer's own server, and the clusters of the run that is shown.

export class Refused extends Error {
  constructor(message, status) { super(message); this.status = status; }
}

async function answer(response) {
  const type = response.headers.get("content-type") ?? "";
  const value = type.startsWith("application/json") ? await response.json() : { error: await response.text() };
  if (!response.ok) throw new Refused(value.error ?? `the server answered ${response.status}`, response.status);
  return value;
}

export async function get(path, parameters = {}, signal = undefined) {
  const query = new URLSearchParams(parameters).toString();
  return answer(await fetch(`/api/${path}${query && "?"}${query}`, { signal }));
}

export async function post(path, values) {
  return answer(await fetch(`/api/${path}`, {
    method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(values) }));
}

/** The answer to values that are sent, as a file. */
export async function save(path, values) {
  const response = await fetch(`/api/${path}`, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(values) });
  return response.ok ? response.blob() : answer(response);
}

export async function send(path, file) {
  return answer(await fetch(`/api/${path}`, {
    method: "POST", headers: { "content-type": "application/octet-stream" }, body: file }));
}

/** Clusters of every level, with what links them. Level 1 is the finest. */
export class Tree {
  constructor(values) {
    this.name = values.name;
    this.nItems = values.n_items;
    this.levels = values.levels;
    this.nLevels = values.levels.length;
    this.children = this.levels.map((level, index) => {
      const found = level.title.map(() => []);
      if (index > 0) this.levels[index - 1].parent.forEach((parent, id) => found[parent].push(id));
      for (const ids of found) ids.sort((a, b) => this.levels[index - 1].n_items[b] - this.levels[index - 1].n_items[a] || a - b);
      return found;
    });
    const top = this.nLevels - 1;
    this.roots = this.levels[top].title.map((_, id) => id)
      .sort((a, b) => this.levels[top].n_items[b] - this.levels[top].n_items[a] || a - b);
    // Colours go by size, so that the largest differ most.
    const rank = new Array(this.roots.length);
    this.roots.forEach((id, place) => { rank[id] = place; });
    this.tops = new Array(this.nLevels);
    this.tops[top] = rank;
    for (let index = top - 1; index >= 0; index--)
      this.tops[index] = this.levels[index].parent.map((parent) => this.tops[index + 1][parent]);
  }

  level(level) { return this.levels[level - 1]; }
  has(level, id) { return level >= 1 && level <= this.nLevels && id >= 0 && id < this.level(level).title.length; }
  title(level, id) { return this.level(level).title[id]; }
  size(level, id) { return this.level(level).n_items[id]; }
  parent(level, id) { return level < this.nLevels ? this.level(level).parent[id] : null; }
  below(level, id) { return level > 1 ? this.children[level - 1][id] : []; }
  /** The clusters that hold one, coarsest first, itself last. */
  path(level, id) {
    const found = [[level, id]];
    while (level < this.nLevels) { id = this.parent(level, id); level += 1; found.unshift([level, id]); }
    return found;
  }
  ancestor(level, id, at) {
    while (level < at) { id = this.parent(level, id); level += 1; }
    return id;
  }
}

/** Of a top cluster by its rank; far from one another for neighbours in rank. */
export function colour(rank, dark) {
  const hue = (210 + rank * 137.508) % 360;
  return `hsl(${hue.toFixed(0)} ${dark ? 55 : 58}% ${dark ? 62 - rank % 3 * 5 : 45 - rank % 3 * 5}%)`;
}
export const isDark = () => matchMedia("(prefers-color-scheme: dark)").matches;

"use strict";
import { clear, count, h, parts, say, share, short } from "./dom.js";
import { get } from "./api.js";
import { marksOfHits, saveButton } from "./marks.js";

const NEAREST = 50;

export function searchView(left, context) {
  let turn = 0, shown = null;
  // Hits so far, for the map and for a file.
  let ofClusters = [], ofItems = [];
  const field = h("input", { type: "search", id: "q", "aria-label": "Search", placeholder: "Words in titles, descriptions and items", autocomplete: "off" });
  const by = h("select", { "aria-label": "Search by" }, h("option", { value: "words" }, "by words"), h("option", { value: "meaning" }, "by meaning"));
  const clusters = h("section", { "aria-label": "Clusters found" }), items = h("section", { "aria-label": "Items found" });
  left.append(h("form", { class: "tools", role: "search", onsubmit: (event) => { event.preventDefault(); context.go({ q: field.value, by: by.value, like: null }); } },
    field, by, h("button", { type: "submit" }, "Search")), h("div", { class: "scrolled pad" }, clusters, items));

  async function search(q, kind, like) {
    const mine = ++turn;
    clear(clusters);
    clear(items);
    [ofClusters, ofItems] = [[], []];
    if (like !== null) { nearestItems("Similar items", "similar", { row: like }, mine); return; }
    if (!q.trim()) { clear(clusters, h("p", { class: "faint" }, "Finds clusters and items that contain all the words. Of an item, the id and the first 300 characters of its text are searched.")); return; }
    clear(clusters, h("p", { role: "status" }, kind === "meaning" ? "Loading the run's embedding model; the first search takes some seconds …" : "Searching …"));
    try {
      const found = await get(`runs/${context.run}/search/${kind === "meaning" ? "meaning" : "clusters"}`, { q });
      if (mine !== turn) return;
      ofClusters = found.hits;
      clear(clusters, h("h2", {}, kind === "meaning" ? "Clusters nearest in meaning" : `Clusters (${count(found.n_hits)})`),
        parts(found.hits, (hits) => h("ul", { class: "list tall" }, hits.map((hit) => h("li", {}, h("div", {},
          h("a", { href: context.link({ cluster: [hit.level, hit.cluster_id], item: null }) }, hit.title),
          hit.description && hit.description !== hit.title && h("p", {}, hit.description)),
        h("span", { class: "size" }, hit.cosine === undefined ? "" : `${hit.cosine.toFixed(2)} · `, `${count(hit.n_items)} · level ${hit.level}`)))), kind === "meaning" ? 6 : 20));
      say(`${found.n_hits} clusters found`);
    } catch (error) { if (mine === turn) clear(clusters, h("p", { role: "alert", class: "error" }, error.message)); }
    if (mine !== turn) return;
    if (kind === "words") searchItems(q, mine);
    else nearestItems("Items nearest in meaning", "items_by_meaning", { q }, mine);
  }

  const line = (hit, aside) => h("li", {}, h("div", {},
    h("a", { href: context.link({ item: hit.row, cluster: [1, hit.level_1] }) }, hit.item_id),
    hit.description && hit.description !== hit.item_id && h("p", {}, hit.description)),
  h("span", { class: "size" }, aside, context.tree.title(1, hit.level_1)));

  /** What can be done with the hits so far. */
  function offer(holder, title) {
    if (!ofItems.length && !ofClusters.length) return;
    const notice = h("span", { role: "alert", class: "error" });
    clear(holder, h("button", { onclick: async () => {
      try { context.mark(await marksOfHits(context.run, title, ofClusters, ofItems)); context.go({ view: "map", cluster: null, item: null, like: null }); } catch (error) { clear(notice, error.message); }
    } }, "Show on the map"), ofItems.length > 0 && saveButton(context, ofItems.map((hit) => hit.row)), notice);
  }

  async function searchItems(q, mine) {
    const list = h("ul", { class: "list tall" }), notice = h("p", { class: "faint", role: "status" }), more = h("button", { hidden: true }, "Continue searching"), uses = h("p", { class: "row" });
    clear(items, h("h2", {}, "Items"), uses, list, notice, more);
    let start = 0, n = 0;
    const on = async (wanted) => {
      more.hidden = true;
      let values;
      do {
        try { values = await get(`runs/${context.run}/search/items`, { q, start }); } catch (error) { clear(notice, error.message); return; }
        if (mine !== turn) return;
        start = values.searched;
        n += values.hits.length;
        ofItems.push(...values.hits);
        list.append(...values.hits.map((hit) => line(hit)));
        clear(notice, `${count(n)} found; searched ${count(start)} of ${count(values.n_items)} items (${share(start, values.n_items)})`);
      } while (n < wanted && start < values.n_items);
      offer(uses, `Results for “${q}”`);
      if (!n && !ofClusters.length && start >= values.n_items)
        clear(notice, "No matches by words. ", h("a", { href: context.link({ q, by: "meaning", like: null }) }, "Search by meaning?"));
      more.hidden = start >= values.n_items;
      more.onclick = () => on(n + 50);
    };
    await on(25);
  }

  /** Items nearest to what is asked, those of the nearest clusters first. */
  async function nearestItems(title, path, query, mine) {
    const list = h("ul", { class: "list tall" }), notice = h("p", { class: "faint", role: "status" }), more = h("button", { hidden: true }, "Continue searching");
    const head = h("h2", {}, title), uses = h("p", { class: "row" });
    clear(items, head, uses, notice, list, more);
    let start = 0, hits = [];
    const far = (hit) => hit.distance ?? -hit.cosine;
    const on = async () => {
      more.hidden = true;
      let values;
      try { values = await get(`runs/${context.run}/search/${path}`, { ...query, start }); } catch (error) { clear(notice, error.message); return; }
      if (mine !== turn) return;
      if (values.like) clear(head, `Items similar to ${values.like}`);
      start = values.searched;
      hits = [...hits, ...values.hits].sort((one, other) => far(one) - far(other)).slice(0, NEAREST);
      clear(list, hits.map((hit) => line(hit, hit.cosine === undefined ? `distance ${short(hit.distance)} · ` : `${hit.cosine.toFixed(2)} · `)));
      clear(notice, values.n_searched < values.n_items
        ? `The nearest ${count(hits.length)} of ${count(values.n_searched)} items searched so far, of ${count(values.n_items)} in all`
        : `The nearest ${count(hits.length)} of ${count(values.n_items)} items`);
      ofItems = hits;
      offer(uses, values.like ? `Items similar to ${values.like}` : `Results for “${query.q}”`);
      say(`${hits.length} items found`);
      more.hidden = start >= values.n_groups;
    };
    more.onclick = on;
    await on();
  }
  const update = (next) => {
    context = next;
    const now = JSON.stringify([next.here.q, next.here.by, next.here.like]);
    if (now === shown) return;
    shown = now;
    field.value = next.here.q;
    by.value = next.here.by;
    search(next.here.q, next.here.by, next.here.like);
  };
  update(context);
  if (!context.here.q) field.focus();
  return { update, end() { turn = -1; } };
}

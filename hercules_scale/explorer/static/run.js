"use strict";
import { clear, count, h, share, short, svg, table } from "./dom.js";
import { get } from "./api.js";
import { basisName, inWords, metricName } from "./words.js";

const when = (time) => time ? String(time).replace("T", " ").replace("Z", " UTC") : "–";
const seconds = (value) => value >= 3600 ? `${(value / 3600).toFixed(1)} h` : value >= 60 ? `${(value / 60).toFixed(1)} min` : `${value.toFixed(1)} s`;

export function runView(left, context) {
  const { run } = context;
  const holder = h("div", { class: "page" });
  left.append(holder);
  let timer = null, ended = false;

  function draw(status) {
    const evaluations = h("section", {}), curves = h("section", {}), ledger = h("section", {});
    const price = status.config?.summaries?.price, tokens = status.tokens;
    const cost = price && tokens ? (tokens.prompt_tokens * price.prompt + tokens.completion_tokens * price.completion) / 1e6 : null;
    clear(holder, h("h1", {}, status.name), h("p", { class: "faint" }, status.uri),
      h("p", { role: "status" }, h("strong", {}, status.finished ? "Finished" : status.status), ` · started ${when(status.started_at)}`, status.ended_at && ` · ended ${when(status.ended_at)}`,
        !status.finished && status.seen_at && ` · last update ${when(status.seen_at)}`, status.attempts > 1 && ` · attempt ${status.attempts}`),
      status.error && h("p", { class: "error" }, status.error),
      status.alarms?.length > 0 && h("ul", { class: "alarms", "aria-label": "Alarms" }, status.alarms.map((alarm) => h("li", {}, alarm))),
      h("dl", { class: "cards" },
        status.titles && card("Titles", status.titles),
        status.clusters_per_level && card("Clusters per level, coarsest first", Object.values(status.clusters_per_level).reverse().map(count).join(", ")),
        tokens && card("Model calls", count(tokens.calls)), tokens && card("Tokens, prompt + answer", `${count(tokens.prompt_tokens)} + ${count(tokens.completion_tokens)}`),
        cost !== null && card("Cost", short(cost))),
      h("h2", {}, "Stages"), stages(status.stages),
      evaluations, curves,
      status.finished && h("section", {}, h("h2", {}, "Downloads"), h("ul", { class: "downloads" }, [
        ["html", "Report: one HTML page that opens without a server"], ["json", "Tree as JSON"], ["clusters.csv", "Clusters as CSV"], ["csv", "Items with their text and clusters as CSV; takes a while for millions of items"],
        ...(status.has_data_maps ? [["map.png", "Labelled map of the items as PNG; takes some seconds"]] : [])].map(([form, words]) =>
        h("li", {}, h("a", { href: `/api/runs/${run}/export?format=${form}`, download: "" }, words))),
      ["clusters", "evaluations", "k_selection"].filter((name) => status.rows?.[name]).map((name) => h("li", {}, h("a", { href: `/api/runs/${run}/table?name=${name}`, download: "" }, `Table “${name}” as Parquet`)))),
      h("p", { class: "faint small" }, `All tables are in ${status.uri}. On the map, buttons save it as PNG and SVG.`)),
      status.rows && h("section", {}, h("h2", {}, "Tables"), table("Rows of each table", ["Table", "Rows"], Object.entries(status.rows).map(([name, n]) => [name, count(n)]), [1])),
      ledger,
      h("section", {}, h("h2", {}, "Configuration"), nested(status.config ?? {}), status.imported && [h("h3", {}, "Imported"), nested(status.imported)]),
      h("section", {}, h("h2", {}, "Versions"), nested({ ...status.versions, ...status.machine })));
    if (!status.finished) return;
    get(`runs/${run}/evaluations`).then((rows) => clear(evaluations, h("h2", {}, "Metrics"), metrics(rows))).catch((error) => clear(evaluations, error.message));
    get(`runs/${run}/k_selection`).then((rows) => rows.length && clear(curves, h("h2", {}, "Choice of the number of clusters"), kCurves(rows))).catch((error) => clear(curves, error.message));
    calls(ledger, 0);
  }

  async function calls(holder, offset) {
    const values = await get(`runs/${run}/ledger`, { offset, limit: 20 });
    if (!values.n_calls) return;
    const rows = values.calls.map((call) => [
      call.cluster_id === null ? "Several" : context.tree.has(call.level, call.cluster_id) ? h("a", { href: context.link({ view: "map", cluster: [call.level, call.cluster_id], item: null }) }, `${call.level}/${call.cluster_id}`) : `${call.level}/${call.cluster_id}`,
      call.attempt, inWords(call.outcome), count(call.prompt_tokens), count(call.completion_tokens), short(call.seconds)]);
    clear(holder, h("h2", {}, "Calls to the language model"),
      table(`Calls ${count(offset + 1)} to ${count(offset + rows.length)} of ${count(values.n_calls)}`, ["Cluster", "Attempt", "Outcome", "Prompt tokens", "Answer tokens", "Seconds"], rows, [1, 3, 4, 5]),
      h("div", { class: "row" }, h("button", { disabled: offset === 0, onclick: () => calls(holder, Math.max(offset - 20, 0)) }, "Previous"), h("button", { disabled: offset + 20 >= values.n_calls, onclick: () => calls(holder, offset + 20) }, "Next")));
  }

  async function follow() {
    try {
      const status = await get(`runs/${run}/state`);
      if (ended) return;
      if (status.finished || status.has_clusters !== context.status.has_clusters) { await context.load(); context.again(); return; }
      draw(status);
    } catch { /* The next look may find the server again. */ }
    timer = setTimeout(follow, 3000);
  }
  draw(context.status);
  if (!context.status.finished) timer = setTimeout(follow, 3000);
  return { end() { ended = true; clearTimeout(timer); } };
}

const card = (name, value) => h("div", {}, h("dt", {}, name), h("dd", {}, value));

function stages(rows) {
  if (!rows?.length) return h("p", { class: "faint" }, "None yet.");
  return table("Stages, with the time of all attempts", ["Stage", "Done", "", "Time", "Driver memory", "Worker memory"], rows.map((stage) => [
    stage.title, `${count(stage.done)} of ${count(stage.total)} ${stage.total === 1 ? stage.unit.replace(/s$/, "") : stage.unit}`,
    h("progress", { max: Math.max(stage.total, 1), value: stage.done, "aria-label": stage.title }), seconds(stage.seconds),
    `${count(Math.round(stage.driver_peak_bytes / 2 ** 20))} MiB`, stage.worker_peak_bytes ? `${count(Math.round(stage.worker_peak_bytes / 2 ** 20))} MiB` : "–"]), [3, 4, 5]);
}

function metrics(rows) {
  if (!rows.length) return h("p", { class: "faint" }, "No metrics were computed.");
  const levels = [...new Set(rows.map((row) => row.level))].sort((a, b) => b - a), names = [...new Set(rows.map((row) => `${row.basis}\u0000${row.metric}`))];
  const cell = (name, level) => rows.find((row) => `${row.basis}\u0000${row.metric}` === name && row.level === level);
  return table("Metrics by level", ["Measured on", "Metric", ...levels.map((level) => `Level ${level}`)], names.map((name) => [basisName(name.split("\u0000")[0]), metricName(name.split("\u0000")[1]), ...levels.map((level) => {
    const found = cell(name, level);
    return found ? `${short(found.value)}${found.low === null || found.low === undefined ? "" : ` (${short(found.low)} to ${short(found.high)})`}` : "";
  })]), levels.map((_, place) => place + 2));
}

function kCurves(rows) {
  const scores = ["simplified_silhouette", "silhouette", "davies_bouldin", "calinski_harabasz"].filter((name) => rows.some((row) => row[name] !== null));
  const levels = [...new Set(rows.map((row) => row.level))].sort((a, b) => a - b);
  const wide = 280, high = 120;
  return h("div", { class: "curves" }, levels.flatMap((level) => scores.map((score) => {
    const own = rows.filter((row) => row.level === level && row[score] !== null).sort((a, b) => a.k - b.k);
    if (!own.length) return null;
    const xs = own.map((row) => Math.log(row.k)), ys = own.map((row) => row[score]);
    const at = (values, value, size, from) => { const [low, most] = [Math.min(...values), Math.max(...values)]; return from + size * (most > low ? (value - low) / (most - low) : 0.5); };
    const spots = own.map((row, place) => [at(xs, xs[place], wide - 40, 20), high - at(ys, ys[place], high - 40, 20), row]);
    return h("figure", { class: "curve" }, svg("svg", { viewBox: `0 0 ${wide} ${high}`, role: "img", "aria-label": `${metricName(score)} by number of clusters, level ${level}; chosen ${own.filter((row) => row.chosen).map((row) => row.k).join(", ")}` },
      svg("polyline", { points: spots.map(([x, y]) => `${x},${y}`).join(" ") }),
      spots.map(([x, y, row]) => svg("circle", { cx: x, cy: y, r: row.chosen ? 5 : 2.5, class: row.chosen ? "chosen" : null }, svg("title", {}, `${count(row.k)} clusters: ${short(row[score])}`))),
      spots.filter(([, , row]) => row.chosen).map(([x, y, row]) => svg("text", { x: Math.min(Math.max(x, 20), wide - 20), y: y > 24 ? y - 9 : y + 18 }, row.k))),
    h("figcaption", {}, `Level ${level}: ${metricName(score)}, ${count(own[0].k)} to ${count(own.at(-1).k)} clusters`));
  })));
}

/** Sections and keys of a configuration. */
function nested(values) {
  return h("dl", { class: "pairs" }, Object.entries(values).map(([name, value]) => {
    const isSection = value !== null && typeof value === "object" && !Array.isArray(value) && Object.keys(value).length;
    return [h("dt", {}, name), h("dd", {}, isSection ? nested(value) : value === null ? "–" : typeof value === "string" ? value : JSON.stringify(value))];
  }));
}

"use strict";
import { clear, count, h, say, table } from "./dom.js";
import { get, post, send } from "./api.js";
import { capital, inWords } from "./words.js";

/** Files are sent, looked at, and clustered with whatever the configuration allows. */
export function newView(left, context) {
  const holder = h("div", { class: "page" });
  left.append(holder);
  let timer = null, ended = false;
  let place = null;
  const uploads = [], values = new Map(), jobs = h("section", { "aria-label": "Runs started here" }), logs = new Map();

  async function begin() {
    const form = await get("form");
    if (ended) return;
    if (!form.enabled) {
      clear(holder, h("h1", {}, "New run"), h("p", {}, "To start runs from this page, start the explorer with --work FOLDER."));
      return;
    }
    const files = h("input", { type: "file", id: "files", multiple: true, accept: form.endings.map((ending) => `.${ending}`).join(",") });
    const name = h("input", { id: "name", autocomplete: "off", maxlength: "200" });
    const previews = h("div", {}), notice = h("p", { role: "alert", class: "error" });
    files.addEventListener("change", async () => {
      uploads.length = 0;
      clear(previews);
      clear(notice);
      try {
        for (const file of files.files) {
          say(`Uploading ${file.name}`);
          const sent = await send(`uploads?${new URLSearchParams({ name: file.name })}`, file);
          uploads.push(sent.upload);
          if (uploads.length <= 3) previews.append(preview(await get(`uploads/${sent.upload}/preview`)));
        }
      } catch (error) { clear(notice, error.message); }
    });
    const places = form.inputs.length > 0 && h("select", { id: "place", onchange: async (event) => {
      place = event.target.value === "" ? null : Number(event.target.value);
      clear(previews);
      clear(notice);
      try { if (place !== null) previews.append(preview(await get(`inputs/${place}/preview`))); } catch (error) { clear(notice, error.message); }
    } }, h("option", { value: "" }, "Uploaded files"), form.inputs.map((each, number) => h("option", { value: number }, each)));
    const start = h("button", { type: "submit" }, "Start the run");
    clear(holder, h("h1", {}, "New run"), jobs,
      h("form", { onsubmit: async (event) => {
        event.preventDefault();
        clear(notice);
        start.disabled = true;
        try {
          await post("jobs", { ...(place === null ? { uploads } : { input: place }), name: name.value, config: Object.fromEntries(values) });
          say("the run has started");
          await follow();
          jobs.scrollIntoView();
        } catch (error) { clear(notice, error.message); }
        start.disabled = false;
      } },
      h("fieldset", {}, h("legend", {}, "Items"),
        h("div", { class: "fields" }, h("div", { class: "field" }, h("label", { for: "files" }, "Files"), files, h("p", { class: "faint small" }, `Of ${form.endings.join(", ")}; several of one kind make one run.`)),
          places && h("div", { class: "field" }, h("label", { for: "place" }, "Or an input of this machine"), places),
          h("div", { class: "field" }, h("label", { for: "name" }, "Name"), name)), previews),
      groups(form.fields), notice, h("p", { class: "row" }, start)));
    follow();
  }

  function groups(fields) {
    const found = new Map();
    for (const field of fields) {
      const group = field.key.split(".")[0];
      if (!found.has(group)) found.set(group, []);
      found.get(group).push(field);
    }
    return [...found].map(([group, own]) => h("details", { open: group === "hierarchy" || group === "input" }, h("summary", {}, inWords(group)),
      h("fieldset", {}, h("legend", { class: "hidden" }, inWords(group)), h("div", { class: "fields" }, own.map(entry)))));
  }

  function entry(field) {
    const id = `f-${field.key}`, help = `${id}-help`, set = (value) => { if (value === "" || value === null) values.delete(field.key); else values.set(field.key, value); };
    const shown = field.default === null || field.default === undefined ? "" : String(field.default);
    const common = { id, "aria-describedby": help };
    let input;
    if (field.kind === "choice") input = h("select", { ...common, onchange: (event) => set(event.target.value) },
      h("option", { value: "" }, shown ? `${shown} (default)` : field.unset), field.choices.filter((each) => String(each) !== shown).map((each) => h("option", { value: each }, each)));
    else if (field.kind === "boolean") input = h("select", { ...common, onchange: (event) => set(event.target.value) },
      h("option", { value: "" }, `${shown} (default)`), h("option", { value: String(!field.default) }, String(!field.default)));
    else input = h("input", { ...common, placeholder: shown || field.unset, autocomplete: "off", list: field.choices.length ? `${id}-list` : null,
      inputmode: field.kind === "integer" ? "numeric" : field.kind === "number" ? "decimal" : null, oninput: (event) => set(event.target.value.trim()) });
    return h("div", { class: "field" }, h("label", { for: id }, field.key.split(".").slice(1).map(inWords).join(": ")), h("span", { class: "faint small" }, ` ${field.key}`), input,
      field.kind !== "choice" && field.choices.length > 0 && h("datalist", { id: `${id}-list` }, field.choices.map((each) => h("option", { value: each }))),
      h("p", { id: help, class: "faint small" }, capital([field.help, field.bounds].filter(Boolean).join("; "))));
  }

  function preview(found) {
    return h("section", {}, h("h3", {}, found.name), h("p", { class: "faint" }, `${count(found.size_bytes)} bytes`, found.modality && ` · recognised as ${found.modality}`),
      found.problem && h("p", { class: "error" }, found.problem),
      found.columns.length > 0 && table(`First rows of ${found.name}`, found.columns, found.rows));
  }

  async function follow() {
    clearTimeout(timer);
    let running = false;
    try {
      const states = await get("jobs");
      if (ended) return;
      running = states.some((job) => job.state === "running");
      for (const [place, job] of states.entries()) {
        if (!logs.has(place)) {
          const parts = { head: h("h2", {}), tools: h("p", { class: "row" }), log: h("pre", { class: "log", tabindex: "0", role: "log", "aria-label": `Log of ${job.name}` }) };
          logs.set(place, parts);
          jobs.prepend(h("section", {}, parts.head, parts.tools, parts.log));
        }
        const { head, tools, log } = logs.get(place);
        if (head.dataset.state !== job.state) {
          head.dataset.state = job.state;
          clear(head, `${job.name}: ${job.state}`);
          clear(tools, job.state === "running" && h("button", { onclick: () => post(`jobs/${place}/cancel`, {}).then(follow) }, "Cancel"),
            job.state === "finished" && h("a", { href: context.link({ run: job.run, view: "map", cluster: null, item: null }) }, "Open the run"),
            h("a", { href: context.link({ run: job.run, view: "run", cluster: null, item: null }) }, "Progress"));
          say(`${job.name}: ${job.state}`);
        }
        const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
        clear(log, job.log);
        if (atEnd) log.scrollTop = log.scrollHeight;
      }
    } catch { running = true; }
    if (!ended) timer = setTimeout(follow, running ? 1500 : 10_000);
  }
  begin().catch((error) => clear(holder, h("p", { role: "alert", class: "error" }, error.message)));
  return { update(next) { context = next; }, end() { ended = true; clearTimeout(timer); } };
}

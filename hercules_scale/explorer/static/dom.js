"use strict";
// All text on the page goes through here. Elements are made one by one, never from strings.

const SVG = "http://www.w3.org/2000/svg";
const UNSEEN = /[\p{C}\p{Zl}\p{Zp}]/gu;

/** Text whose control characters are shown and not obeyed; line ends and tabs stay. */
export function printable(text) {
  return String(text).replace(UNSEEN, (char) =>
    char === "\n" || char === "\t" ? char : `\\u{${char.codePointAt(0).toString(16)}}`);
}

function build(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "value") element.value = value;
    else if (name === "checked" || name === "disabled" || name === "selected" || name === "open")
      element[name] = value;
    else if (name === "style") for (const [key, each] of Object.entries(value)) element.style.setProperty(key, each);
    else element.setAttribute(name, value === true ? "" : printable(value));
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false)
    .map((child) => child instanceof Node ? child : printable(child)));
  return element;
}

export const h = (tag, attributes, ...children) => build(document.createElement(tag), attributes, children);
export const svg = (tag, attributes, ...children) => build(document.createElementNS(SVG, tag), attributes, children);
export const clear = (element, ...children) => { element.replaceChildren(); return build(element, {}, children); };

export const count = (number) => number === null || number === undefined ? "–" : Number(number).toLocaleString("en");
export const short = (number) =>
  number === null || number === undefined ? "–"
    : Math.abs(number) >= 1e6 || (number !== 0 && Math.abs(number) < 1e-3) ? Number(number).toExponential(2)
      : Number(Number(number).toPrecision(4)).toLocaleString("en", { maximumFractionDigits: 6 });
export const share = (part, whole) => {
  const percent = 100 * part / Math.max(whole, 1);
  return percent > 0 && percent < 0.1 ? "<0.1%" : `${percent.toFixed(1)}%`;
};
export const cut = (text, most) => { const chars = [...String(text)]; return chars.length <= most ? text : chars.slice(0, most - 1).join("") + "…"; };

/** Tells what happened to those who do not see it. */
export function say(text) {
  document.getElementById("said").textContent = printable(text);
}

/** A small bar chart. */
export function histogram(counts, low, high, label, mark = null) {
  const width = 160, height = 36, top = Math.max(...counts, 1), step = width / counts.length;
  return h("figure", { class: "histogram" },
    svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label },
      counts.map((each, index) => svg("rect", {
        x: index * step + 0.5, y: height - height * each / top, width: step - 1, height: height * each / top })),
      mark !== null && high > low && svg("line", {
        x1: width * (mark - low) / (high - low), x2: width * (mark - low) / (high - low), y1: 0, y2: height })),
    h("figcaption", {}, h("span", {}, short(low)), h("span", {}, short(high))));
}

/** Lists that may be long open a part at a time. */
export function parts(all, draw, size = 12) {
  const holder = h("div", {});
  const show = (until) => clear(holder, draw(all.slice(0, until)),
    until < all.length && h("button", { onclick: () => show(until + 100) }, `${count(all.length - until)} more`));
  show(size);
  return holder;
}

/** A table with a caption; cells are texts or elements. */
export function table(caption, heads, rows, numeric = []) {
  return h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    h("table", {},
      h("caption", {}, caption),
      h("thead", {}, h("tr", {}, heads.map((head, place) =>
        h("th", { scope: "col", class: numeric.includes(place) ? "number" : null }, head)))),
      h("tbody", {}, rows.map((row) => h("tr", {}, row.map((cell, place) =>
        h("td", { class: numeric.includes(place) ? "number" : null }, cell)))))));
}

export function download(name, blob) {
  const link = h("a", { href: URL.createObjectURL(blob), download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

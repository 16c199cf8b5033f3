"use strict";
// Labels of the map, beside bubbles and apart from one another.

import { FONT, STRONG } from "./pens.js";
import { cut, printable } from "./dom.js";

const CELL = 4, GAP = 5, LONGEST = 120, WIDTHS = [170, 110];
// Most bubbles that a frame tries to label.
const TRIES = 500;

/** The room of a window that is not taken, in cells of a few pixels. */
class Room {
  constructor(wide, high) {
    [this.wide, this.high] = [wide, high];
    [this.columns, this.rows] = [Math.ceil(wide / CELL), Math.ceil(high / CELL)];
    this.taken = new Uint8Array(this.columns * this.rows);
  }
  circle(x, y, r) {
    const reach = r + 2, [first, last] = [Math.max(Math.floor((y - reach) / CELL), 0), Math.min(Math.ceil((y + reach) / CELL), this.rows - 1)];
    for (let row = first; row <= last; row++) {
      const high = (row + 0.5) * CELL - y, half = Math.sqrt(Math.max(reach * reach - high * high, 0));
      if (!half) continue;
      const from = Math.max(Math.ceil((x - half) / CELL - 0.5), 0), to = Math.min(Math.floor((x + half) / CELL - 0.5), this.columns - 1);
      if (from <= to) this.taken.fill(1, row * this.columns + from, row * this.columns + to + 1);
    }
  }
  cells([x0, y0, x1, y1]) { return [Math.floor(x0 / CELL), Math.floor(y0 / CELL), Math.floor(x1 / CELL), Math.floor(y1 / CELL)]; }
  isFree(box) {
    if (box[0] < 2 || box[1] < 2 || box[2] > this.wide - 2 || box[3] > this.high - 2) return false;
    const [left, top, right, bottom] = this.cells(box);
    for (let row = top; row <= bottom; row++)
      for (let column = left; column <= right; column++) if (this.taken[row * this.columns + column]) return false;
    return true;
  }
  take(box) {
    const [left, top, right, bottom] = this.cells(box);
    for (let row = top; row <= bottom; row++) this.taken.fill(1, row * this.columns + left, row * this.columns + right + 1);
  }
}

/** A text in lines, none wider than what is asked unless one word is. */
function lines(pen, text, wide, font) {
  const found = [];
  let line = "";
  for (const word of text.split(/\s+/)) {
    const longer = line ? `${line} ${word}` : word;
    if (line && pen.width(longer, font) > wide) { found.push(line); line = word; } else line = longer;
  }
  return [...found, line];
}

/** Spots for a box of a size beside a bubble, the best first: left, top, alignment. */
function beside({ x, y, r }, wide, high) {
  const far = r + GAP, aslant = 0.72 * r + GAP;
  return [
    [x + far, y - high / 2, "left"], [x - far - wide, y - high / 2, "right"],
    [x - wide / 2, y + far, "center"], [x - wide / 2, y - far - high, "center"],
    [x + aslant, y + aslant, "left"], [x + aslant, y - aslant - high, "left"],
    [x - aslant - wide, y + aslant, "right"], [x - aslant - wide, y - aslant - high, "right"],
  ];
}
/** Spots around the middle of a cluster of an upper level, the nearest first. */
function around({ x, y, reach }, wide, high) {
  const found = [[x - wide / 2, y - high / 2, "center"]];
  for (let far = 20; far <= reach; far += 20)
    for (let turn = 0; turn < 12; turn++) {
      const angle = Math.PI * (turn / 6 - 0.5);
      found.push([x + Math.cos(angle) * (far + wide / 4) - wide / 2, y + Math.sin(angle) * far - high / 2, "center"]);
    }
  return found;
}

/**
 * Writes what has room, and returns how many labels were written.
 * `wanted` holds title, x, y and r of bubbles; or, of an upper level, the reach from its middle.
 */
export function writeLabels(pen, size, bubbles, wanted, most, text, back) {
  const room = new Room(...size);
  for (const each of bubbles) room.circle(each.x, each.y, each.r);
  let n = 0;
  for (const each of wanted.slice(0, TRIES)) {
    if (n >= most) break;
    const font = each.reach ? STRONG : FONT, step = each.reach ? 17 : 14, title = cut(printable(each.title), LONGEST);
    fitting: for (const width of WIDTHS) {
      const rows = lines(pen, title, width, font), wide = Math.max(...rows.map((row) => pen.width(row, font))), high = rows.length * step;
      for (const [left, top, align] of (each.reach ? around : beside)(each, wide, high)) {
        const box = [left, top, left + wide, top + high];
        if (!room.isFree(box)) continue;
        room.take([left - 4, top - 2, left + wide + 4, top + high + 2]);
        const x = align === "left" ? left : align === "right" ? left + wide : left + wide / 2;
        rows.forEach((row, place) => pen.text(row, x, top + (place + 0.78) * step, text, back, font, align));
        n += 1;
        break fitting;
      }
    }
  }
  return n;
}

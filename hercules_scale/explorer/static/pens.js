"use strict";
// What the map draws with: the window's canvas, or an SVG file of the same.

export const FONT = "12px system-ui, sans-serif", STRONG = "600 14px system-ui, sans-serif";

export class CanvasPen {
  constructor(canvas) {
    const ratio = devicePixelRatio || 1, [wide, high] = [Math.round(canvas.clientWidth * ratio), Math.round(canvas.clientHeight * ratio)];
    if (canvas.width !== wide || canvas.height !== high) { canvas.width = wide; canvas.height = high; }
    this.at = canvas.getContext("2d");
    this.at.setTransform(ratio, 0, 0, ratio, 0, 0);
    this.size = [canvas.clientWidth, canvas.clientHeight];
    this.at.lineJoin = "round";
  }
  begin(back) { this.at.globalAlpha = 1; this.at.fillStyle = back; this.at.fillRect(0, 0, ...this.size); }
  width(text, font) { this.at.font = font; return this.at.measureText(text).width; }
  rect(x, y, wide, high, fill, alpha) { this.at.globalAlpha = alpha; this.at.fillStyle = fill; this.at.fillRect(x, y, wide, high); }
  circle(x, y, r, fill, line, alpha, thick = 1) {
    this.at.globalAlpha = alpha;
    this.at.beginPath();
    this.at.arc(x, y, r, 0, 2 * Math.PI);
    if (fill) { this.at.fillStyle = fill; this.at.fill(); }
    this.at.strokeStyle = line;
    this.at.lineWidth = thick;
    this.at.stroke();
  }
  path(spots, line, fill) {
    this.at.beginPath();
    for (const [x, y] of spots) this.at.lineTo(x, y);
    this.at.closePath();
    this.at.globalAlpha = 0.12;
    this.at.fillStyle = fill;
    this.at.fill();
    this.at.globalAlpha = 1;
    this.at.strokeStyle = line;
    this.at.lineWidth = 1.5;
    this.at.stroke();
  }
  line(x0, y0, x1, y1, line, alpha) {
    this.at.globalAlpha = alpha;
    this.at.strokeStyle = line;
    this.at.lineWidth = 1;
    this.at.beginPath();
    this.at.moveTo(x0, y0);
    this.at.lineTo(x1, y1);
    this.at.stroke();
  }
  text(text, x, y, fill, halo, font, align) {
    this.at.globalAlpha = 1;
    this.at.font = font;
    this.at.textAlign = align;
    this.at.strokeStyle = halo;
    this.at.lineWidth = 3.5;
    this.at.strokeText(text, x, y);
    this.at.fillStyle = fill;
    this.at.fillText(text, x, y);
  }
}

const escaped = (text) => String(text).replace(/[&<>"']/g, (char) => `&#${char.charCodeAt(0)};`).replace(/[\p{C}]/gu, "\uFFFD");
const ANCHORS = { left: "start", center: "middle", right: "end" };
const digits = (number) => Number(number).toFixed(1);

export class SvgPen {
  constructor(wide, high) {
    this.parts = [`<svg xmlns="http://www.w3.org/2000/svg" width="${wide}" height="${high}" viewBox="0 0 ${wide} ${high}" font-family="sans-serif">`];
    this.ruler = document.createElement("canvas").getContext("2d");
  }
  begin(back) { this.parts.push(`<rect width="100%" height="100%" fill="${escaped(back)}"/>`); }
  width(text, font) { this.ruler.font = font; return this.ruler.measureText(text).width; }
  rect(x, y, wide, high, fill, alpha) { this.parts.push(`<rect x="${digits(x)}" y="${digits(y)}" width="${digits(wide)}" height="${digits(high)}" fill="${escaped(fill)}" opacity="${alpha.toFixed(2)}"/>`); }
  circle(x, y, r, fill, line, alpha, thick = 1) { this.parts.push(`<circle cx="${digits(x)}" cy="${digits(y)}" r="${digits(r)}" fill="${escaped(fill ?? "none")}" stroke="${escaped(line)}" stroke-width="${thick}" opacity="${alpha}"/>`); }
  path(spots, line, fill) { this.parts.push(`<polygon points="${spots.map((spot) => spot.map(digits).join(",")).join(" ")}" fill="${escaped(fill)}" fill-opacity="0.12" stroke="${escaped(line)}"/>`); }
  line(x0, y0, x1, y1, line, alpha) { this.parts.push(`<line x1="${digits(x0)}" y1="${digits(y0)}" x2="${digits(x1)}" y2="${digits(y1)}" stroke="${escaped(line)}" opacity="${alpha}"/>`); }
  text(text, x, y, fill, halo, font, align) { this.parts.push(`<text font-size="${font === STRONG ? 14 : 12}" font-weight="${font === STRONG ? 600 : 400}" text-anchor="${ANCHORS[align]}" x="${digits(x)}" y="${digits(y)}" fill="${escaped(fill)}" stroke="${escaped(halo)}" stroke-width="3.5" stroke-linejoin="round" paint-order="stroke">${escaped(text)}</text>`); }
  finish() { return [...this.parts, "</svg>"].join("\n"); }
}

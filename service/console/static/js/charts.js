/** Small line and bar charts as SVG, each with its numbers in words for those who cannot see it. */

import { h, s } from "./dom.js";

const [WIDTH, HEIGHT] = [460, 280];
const [LEFT, RIGHT, TOP, BOTTOM] = [66, 24, 14, 50];

/** Round numbers within a range, about `wanted` of them. */
export function ticksOf(from, to, wanted = 5) {
  const rough = (to - from) / wanted;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((each) => each >= rough * 0.999);
  const first = Math.ceil(from / step - 1e-9);
  return Array.from({ length: Math.floor(to / step + 1e-9) - first + 1 }, (_, index) => (first + index) * step);
}

/** An axis: `from`, `to`, `ticks`, `label`, `log` (to base 10), `format`. */
function scale({ from, to, log = false }, low, high) {
  const value = log ? Math.log10 : (number) => number;
  return (number) => low + ((value(number) - value(from)) / (value(to) - value(from))) * (high - low);
}

/**
 * Lines over two axes. `series`: [{name, points: [[x, y]], band: [[x, low, high]]}]; `summary` says in words what is
 * to be seen.
 */
export function lineChart({ title, summary, x, y, series }) {
  const [toX, toY] = scales(x, y);
  const shapes = series.flatMap(({ points, band = null }, index) => [
    band && s("path", { class: `band tone-${index}`, d: bandPath(band, toX, toY) }),
    s("path", { class: `line tone-${index}`, d: linePath(points, toX, toY) }),
    points.length <= 20 &&
      points.map(([px, py]) =>
        s("circle", { class: `point tone-${index}`, cx: round(toX(px)), cy: round(toY(py)), r: 2.6 }),
      ),
  ]);
  return figure(
    title,
    summary,
    [axes(x, y, toX, toY), shapes],
    series.length > 1 ? series.map(({ name }) => name) : [],
  );
}

/** Bars between edges. `series`: [{name, bars: [[from, to, height]]}]. */
export function histogram({ title, summary, x, y, series }) {
  const [toX, toY] = scales(x, y);
  const shapes = series.flatMap(({ bars }, index) =>
    bars
      .filter(([, , height]) => height > 0)
      .map(([from, to, height]) => {
        const [left, right] = [toX(Math.max(from, x.from)), toX(Math.min(to, x.to))];
        const top = toY(height);
        return s("rect", {
          class: `bar tone-${index}`,
          x: round(left + 0.5),
          y: round(top),
          width: round(Math.max(right - left - 1, 0.5)),
          height: round(HEIGHT - BOTTOM - top),
        });
      }),
  );
  return figure(
    title,
    summary,
    [axes(x, y, toX, toY), shapes],
    series.length > 1 ? series.map(({ name }) => name) : [],
  );
}

/** A line without axes: how a number went lately. */
export function sparkline(values, label) {
  const top = Math.max(...values, 1e-9);
  const points = values.map((value, index) => [
    (index / Math.max(values.length - 1, 1)) * 120,
    30 - (value / top) * 28,
  ]);
  const line = points.map(([px, py], index) => `${index ? "L" : "M"}${round(px)} ${round(py)}`).join(" ");
  return s(
    "svg",
    { viewBox: "0 0 120 32", class: "spark", role: "img", "aria-label": label, preserveAspectRatio: "none" },
    points.length > 1 && s("path", { class: "spark-fill", d: `${line} L120 32 L0 32 Z` }),
    points.length > 1 && s("path", { class: "spark-line", d: line }),
  );
}

/** Where a picture would be, if its numbers were there. */
export function notMeasured(title, why) {
  return h(
    "figure",
    { class: "chart missing" },
    h("figcaption", {}, title),
    h("p", {}, h("strong", {}, "Not measured. "), why),
  );
}

function scales(x, y) {
  return [scale(x, LEFT, WIDTH - RIGHT), scale(y, HEIGHT - BOTTOM, TOP)];
}

function figure(title, summary, shapes, names) {
  const picture = s(
    "svg",
    { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": `${title}. ${summary}` },
    shapes,
  );
  const legend =
    names.length > 0 &&
    h(
      "ul",
      { class: "legend" },
      names.map((name, index) => h("li", { class: `tone-${index}` }, name)),
    );
  return h("figure", { class: "chart" }, h("figcaption", {}, title), legend, picture);
}

function axes(x, y, toX, toY) {
  const [bottom, right] = [HEIGHT - BOTTOM, WIDTH - RIGHT];
  return s(
    "g",
    { class: "axes" },
    y.ticks.map((tick) => [
      s("line", { class: "grid", x1: LEFT, x2: right, y1: round(toY(tick)), y2: round(toY(tick)) }),
      s("text", { x: LEFT - 8, y: round(toY(tick)) + 5, "text-anchor": "end" }, y.format(tick)),
    ]),
    x.ticks.map((tick) => [
      s("line", { class: "grid", x1: round(toX(tick)), x2: round(toX(tick)), y1: TOP, y2: bottom }),
      s("text", { x: round(toX(tick)), y: bottom + 19, "text-anchor": "middle" }, x.format(tick)),
    ]),
    s("text", { class: "axis", x: (LEFT + right) / 2, y: HEIGHT - 6, "text-anchor": "middle" }, x.label),
    s(
      "text",
      {
        class: "axis",
        x: 14,
        y: (TOP + bottom) / 2,
        transform: `rotate(-90 14 ${(TOP + bottom) / 2})`,
        "text-anchor": "middle",
      },
      y.label,
    ),
  );
}

function linePath(points, toX, toY) {
  return points.map(([px, py], index) => `${index ? "L" : "M"}${round(toX(px))} ${round(toY(py))}`).join(" ");
}

function bandPath(band, toX, toY) {
  const there = band.map(([px, , high]) => [px, high]);
  const back = band.map(([px, low]) => [px, low]).reverse();
  return `${linePath([...there, ...back], toX, toY)} Z`;
}

function round(value) {
  return Math.round(value * 100) / 100;
}

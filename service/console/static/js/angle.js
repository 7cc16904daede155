/** The angle between two embeddings, drawn: both are unit vectors, and the threshold is a ray between them. */

import { degrees } from "./calibration.js";
import { h, s } from "./dom.js";

const [X, Y, RADIUS] = [200, 186, 150];

/** A drawing of a similarity and a threshold, both cosines; `set(similarity, threshold)` draws it anew. */
export function anglePicture() {
  const picture = s("svg", { viewBox: "0 0 400 214", role: "img", class: "angle" });
  const box = h("figure", { class: "angle-box" }, picture);
  return {
    box,
    set: (similarity, threshold) => draw(picture, degrees(similarity), degrees(threshold), similarity >= threshold),
  };
}

function draw(picture, angle, limit, matched) {
  const side = matched ? "within" : "outside";
  picture.setAttribute(
    "aria-label",
    `The embeddings are ${angle.toFixed(1)} degrees apart, ${side} the threshold at ${limit.toFixed(1)} degrees.`,
  );
  picture.setAttribute("class", `angle ${matched ? "is-match" : "is-no-match"}`);
  const shapes = [
    s("path", { class: "angle-sky", d: arc(180, RADIUS, true) }),
    s("path", { class: "angle-accepted", d: arc(limit, RADIUS, true) }),
    ...ticks(),
    s("path", { class: "angle-arc", d: arc(angle, 46, false) }),
    ray("angle-limit", limit, RADIUS + 8),
    vector("angle-vector", 0),
    vector("angle-vector angle-second", angle),
    s("circle", { class: "angle-origin", cx: X, cy: Y, r: 4 }),
    text("angle-name", 0, RADIUS + 16, "A"),
    text("angle-name", angle, RADIUS + 18, "B"),
    // On the side where the second vector is not.
    text("angle-limit-name", limit, RADIUS + 20, `threshold ${limit.toFixed(1)}°`, angle > limit ? "start" : "end"),
    text("angle-value", Math.max(angle / 2, 14), angle < 50 ? 84 : 72, `${angle.toFixed(1)}°`),
  ];
  picture.replaceChildren(...shapes);
}

function ticks() {
  const all = [];
  for (let at = 0; at <= 180; at += 15) {
    const long = at % 45 === 0;
    const [[x1, y1], [x2, y2]] = [at_(at, RADIUS), at_(at, RADIUS - (long ? 9 : 5))];
    all.push(s("line", { class: "angle-tick", x1, y1, x2, y2 }));
  }
  return all;
}

function vector(name, angle) {
  const [x, y] = at_(angle, RADIUS);
  const [[lx, ly], [rx, ry]] = [at_(angle, RADIUS - 14, 5.5), at_(angle, RADIUS - 14, -5.5)];
  const [ex, ey] = at_(angle, RADIUS - 10);
  return s(
    "g",
    { class: name },
    s("line", { x1: X, y1: Y, x2: ex, y2: ey }),
    s("path", { d: `M${x} ${y} L${lx} ${ly} L${rx} ${ry} Z` }),
  );
}

function ray(name, angle, length) {
  const [x2, y2] = at_(angle, length);
  return s("line", { class: name, x1: X, y1: Y, x2, y2 });
}

function text(name, angle, distance, content, anchor = "middle") {
  const [x, y] = at_(angle, distance);
  return s("text", { class: name, x, y: y + 4, "text-anchor": anchor }, content);
}

function arc(angle, radius, filled) {
  const [x, y] = at_(angle, radius);
  const line = `M${X + radius} ${Y} A${radius} ${radius} 0 0 0 ${x} ${y}`;
  return filled ? `${line} L${X} ${Y} Z` : line;
}

/** A point at an angle from the first vector, and `aside` of the ray. */
function at_(angle, distance, aside = 0) {
  const radians = (angle * Math.PI) / 180;
  const [cos, sin] = [Math.cos(radians), Math.sin(radians)];
  return [round(X + distance * cos - aside * sin), round(Y - distance * sin - aside * cos)];
}

function round(value) {
  return Math.round(value * 100) / 100;
}

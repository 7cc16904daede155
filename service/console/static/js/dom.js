/** Elements, built one by one: whatever a server or a file says is text, never markup. */

const SVG = "http://www.w3.org/2000/svg";

/** An HTML element. Properties: `class`, `on: {event: listener}`, `data: {}`, and attributes; null and false leave one out. */
export function h(tag, properties = {}, ...children) {
  return fill(document.createElement(tag), properties, children);
}

/** The same in SVG. */
export function s(tag, properties = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), properties, children);
}

/** Replace what an element holds. */
export function put(element, ...children) {
  element.replaceChildren(...children.flat(Infinity).filter(isThere));
  return element;
}

/** Tell what happened to whoever cannot see it. */
export function announce(text) {
  document.getElementById("status").textContent = text;
}

let last = 0;

/** An id that no other element of the page has. */
export function freshId(prefix) {
  last += 1;
  return `${prefix}-${last}`;
}

/** A labelled control: the label, the control and, below it, a hint. */
export function field(label, control, hint = null) {
  control.id ||= freshId("field");
  const hintId = hint === null ? null : `${control.id}-hint`;
  if (hintId !== null) control.setAttribute("aria-describedby", hintId);
  return h(
    "div",
    { class: "field" },
    h("label", { for: control.id }, label),
    control,
    hint === null ? null : h("p", { class: "hint", id: hintId }, hint),
  );
}

/** A checkbox with its label beside it. */
export function check(label, control) {
  control.id ||= freshId("field");
  return h("div", { class: "check" }, control, h("label", { for: control.id }, label));
}

/** Terms with what they stand for. */
export function facts(pairs, extra = "") {
  return h(
    "dl",
    { class: `facts ${extra}`.trim() },
    pairs.filter(isThere).map(([term, value]) => h("div", {}, h("dt", {}, term), h("dd", {}, value))),
  );
}

function fill(element, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (name === "on") for (const [event, listener] of Object.entries(value)) element.addEventListener(event, listener);
    else if (name === "data") Object.assign(element.dataset, value);
    else if (isThere(value)) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter(isThere));
  return element;
}

function isThere(value) {
  return value !== null && value !== undefined && value !== false;
}

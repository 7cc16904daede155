/** The Markdown that model cards are written in, as elements: headings, paragraphs, tables, lists, code. No markup passes. */

import { h } from "./dom.js";

/** A card as elements; its headings begin at `level`. */
export function render(text, level = 4) {
  const blocks = text
    .replace(/\r\n?/g, "\n")
    .split(/\n{2,}/)
    .flatMap(splitHeading);
  return h(
    "div",
    { class: "card-text" },
    blocks.filter((block) => block.trim()).map((block) => blockOf(block, level)),
  );
}

/** A heading and what follows it without an empty line. */
function splitHeading(block) {
  const [first, ...rest] = block.split("\n");
  return /^#{1,6} /.test(first) && rest.length > 0 ? [first, rest.join("\n")] : [block];
}

function blockOf(block, level) {
  const lines = block.split("\n").filter((line) => line.trim());
  const heading = /^(#{1,6}) (.*)$/.exec(lines[0]);
  if (heading) return h(`h${Math.min(level + heading[1].length - 1, 6)}`, {}, inline(heading[2]));
  if (lines.every((line) => line.startsWith("|"))) return table(lines);
  if (lines.every((line) => line.startsWith("    ")))
    return h("pre", { tabindex: "0" }, h("code", {}, lines.map((line) => line.slice(4)).join("\n")));
  if (/^```/.test(lines[0]))
    return h(
      "pre",
      { tabindex: "0" },
      h(
        "code",
        {},
        lines
          .slice(1)
          .filter((line) => !/^```/.test(line))
          .join("\n"),
      ),
    );
  if (lines.every((line) => /^([-*] | {2})/.test(line)))
    return h(
      "ul",
      {},
      items(lines).map((item) => h("li", {}, inline(item))),
    );
  return h("p", {}, inline(lines.join(" ")));
}

function items(lines) {
  return lines.reduce(
    (all, line) =>
      /^[-*] /.test(line) ? [...all, line.slice(2)] : [...all.slice(0, -1), `${all.at(-1) ?? ""} ${line.trim()}`],
    [],
  );
}

function table(lines) {
  const [head, , ...body] = lines.map((line) =>
    line
      .trim()
      .replace(/^\||\|$/g, "")
      .split("|")
      .map((cell) => cell.trim()),
  );
  const headed = head.some((cell) => cell !== "");
  return h(
    "div",
    { class: "scroll", tabindex: "0", role: "group", "aria-label": "Table of the card" },
    h(
      "table",
      {},
      headed &&
        h(
          "thead",
          {},
          h(
            "tr",
            {},
            head.map((cell) => h("th", { scope: "col" }, inline(cell))),
          ),
        ),
      h(
        "tbody",
        {},
        body.map(([first, ...rest]) =>
          h(
            "tr",
            {},
            h("th", { scope: "row" }, inline(first)),
            rest.map((cell) => h("td", {}, inline(cell))),
          ),
        ),
      ),
    ),
  );
}

function inline(text) {
  return text.split(/(`[^`]+`|\*\*[^*]+\*\*)/).map((part) => {
    if (part.startsWith("`") && part.length > 1) return h("code", {}, part.slice(1, -1));
    if (part.startsWith("**") && part.length > 3) return h("strong", {}, part.slice(2, -2));
    return part;
  });
}

/** One model: what may be done with it, how well it was measured, and its card. */

import { histogram, lineChart, notMeasured, ticksOf } from "../charts.js";
import { facts, field, h } from "../dom.js";
import { render } from "../markdown.js";
import { doing, oneIn } from "../parts.js";

const RARE = 1e-4; // of all pairs; what is rarer than this would not be seen in a bar

/** `activate()` and `shadow(share)` are what the buttons do. */
export function modelDetail(model, { activate, shadow }) {
  return h(
    "div",
    { class: "stack" },
    h(
      "section",
      { class: "card", "aria-label": "Model" },
      h("h2", {}, model.id),
      aboutOf(model),
      model.kind === "embedder" && !model.champion && actions(model, activate, shadow),
    ),
    model.kind === "embedder" &&
      h("section", { class: "card", "aria-label": "Measured" }, h("h2", {}, "Measured"), measured(model.calibration)),
    h(
      "section",
      { class: "card", "aria-label": "Card" },
      h("h2", {}, "Card"),
      model.card === null ? h("p", { class: "hint" }, "This bundle has no card.") : render(model.card, 3),
    ),
  );
}

function aboutOf(model) {
  const { licence, provenance, lineage } = model;
  return facts([
    ["State", `${model.standing}${model.loaded ? ", loaded" : ""}`],
    ["Architecture", model.architecture || "—"],
    ["Contract", h("code", {}, model.contract_id)],
    model.dimension !== null && ["Dimension", String(model.dimension)],
    [
      "Input",
      `${model.input.width} × ${model.input.height} ${model.input.channels.toUpperCase()}, ${model.precision}${model.mirror ? ", with its mirror image" : ""}`,
    ],
    ["Licence", `${licence.spdx}${licence.commercial_use ? "" : " — not known to allow commercial use"}`],
    ["Origin", provenance.origin],
    lineage && ["Made from", lineage.parent || "no parent"],
    [
      "Signed by",
      model.signers.length === 0 ? "nobody" : model.signers.map((key) => h("code", { class: "wrap" }, key)),
    ],
  ]);
}

function actions(model, activate, shadow) {
  const place = h("div");
  const share = h(
    "select",
    {},
    [
      ["0.01", "1 %"],
      ["0.1", "10 %"],
      ["1", "all"],
    ].map(([value, text]) => h("option", { value, selected: value === "0.1" }, text)),
  );
  const begin = h("button", { type: "button" }, "Compare in shadow");
  begin.addEventListener("click", () => doing(begin, place, () => shadow(share.value)));
  return h(
    "div",
    { class: "stack" },
    h(
      "div",
      { class: "row wrap bottom" },
      h("button", { type: "button", class: "primary", on: { click: activate } }, "Activate"),
      field("Share of /verify", share),
      begin,
    ),
    place,
  );
}

function measured(calibration) {
  if (calibration === null) {
    return h(
      "div",
      { class: "charts" },
      ["ROC", "Score histogram"].map((title) =>
        notMeasured(title, "This bundle has no calibration; facesphere-train calibrate makes one."),
      ),
    );
  }
  const points = [...calibration.points].reverse(); // from strict to lax: to the right on a logarithmic axis
  const about = facts([
    ["Data", calibration.data],
    ["People and photos", `${calibration.people.toLocaleString("en")} and ${calibration.images.toLocaleString("en")}`],
    [
      "Pairs",
      `${calibration.genuine_pairs.toLocaleString("en")} of one person, ${calibration.impostor_pairs.toLocaleString("en")} of strangers`,
    ],
    ["Detector", calibration.detector || "not recorded"],
  ]);
  return h(
    "div",
    { class: "stack" },
    about,
    h("div", { class: "charts" }, roc(points), det(points), byThreshold(points), scores(calibration)),
    table(points),
  );
}

const asPower = (rate) => (rate === 1 ? "1" : `10${superscript(Math.round(Math.log10(rate)))}`);

function superscript(number) {
  return [...String(number)].map((digit) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[digit] ?? "⁻").join("");
}

function rates(points, label = "False-match rate") {
  const [from, to] = [points[0].fmr, points.at(-1).fmr];
  return { from, to, log: true, label, ticks: decades(from, to), format: asPower };
}

function decades(from, to) {
  const all = [];
  for (let power = Math.ceil(Math.log10(from) - 1e-9); power <= Math.log10(to) + 1e-9; power += 1)
    all.push(10 ** power);
  return all;
}

function roc(points) {
  const low = Math.max(0, Math.floor(Math.min(...points.map(({ tar_low: value }) => value)) * 50) / 50);
  const y = { from: low, to: 1, label: "True-match rate", ticks: ticksOf(low, 1), format: (value) => value.toFixed(2) };
  const series = [
    {
      name: "TAR",
      points: points.map(({ fmr, tar }) => [fmr, tar]),
      band: points.map(({ fmr, tar_low: a, tar_high: b }) => [fmr, a, b]),
    },
  ];
  return lineChart({
    title: "ROC, with 95 % interval",
    summary: inWords(points, ({ tar }) => `${(100 * tar).toFixed(2)} % of pairs of one person match`),
    x: rates(points),
    y,
    series,
  });
}

function det(points) {
  const missed = points
    .map(({ fmr, tar, tar_low: low, tar_high: high }) => [
      fmr,
      1 - tar,
      Math.max(1 - high, 1e-6),
      Math.max(1 - low, 1e-6),
    ])
    .filter(([, rate]) => rate > 0);
  if (missed.length < 2) return notMeasured("DET", "No pair of one person was missed at any measured rate.");
  const from = 10 ** Math.floor(Math.log10(Math.min(...missed.map(([, rate, low]) => Math.max(low, rate / 30)))));
  const to = 10 ** Math.ceil(Math.log10(Math.max(...missed.map(([, , , high]) => high))));
  const y = { from, to, log: true, label: "False non-match rate", ticks: decades(from, to), format: asPower };
  const series = [
    {
      name: "FNMR",
      points: missed.map(([fmr, rate]) => [fmr, rate]),
      band: missed.map(([fmr, , low, high]) => [fmr, Math.max(low, from), Math.min(high, to)]),
    },
  ];
  return lineChart({
    title: "DET, with 95 % interval",
    summary: inWords(points, ({ tar }) => `${(100 * (1 - tar)).toFixed(2)} % of pairs of one person are missed`),
    x: rates(points),
    y,
    series,
  });
}

function byThreshold(points) {
  const [from, to] = [points.at(-1).threshold, points[0].threshold];
  const x = {
    from,
    to,
    label: "Threshold on the cosine",
    ticks: ticksOf(from, to, 6),
    format: (value) => value.toFixed(2),
  };
  const missed = points.map(({ threshold, tar }) => [threshold, 1 - tar]).filter(([, rate]) => rate > 0);
  const low = Math.min(points[0].fmr, ...missed.map(([, rate]) => rate));
  const y = {
    from: 10 ** Math.floor(Math.log10(low)),
    to: 1,
    log: true,
    label: "Rate",
    ticks: decades(low / 10, 1),
    format: asPower,
  };
  const series = [
    { name: "False-match rate", points: points.map(({ threshold, fmr }) => [threshold, fmr]) },
    { name: "False non-match rate", points: missed },
  ];
  return lineChart({
    title: "Errors by threshold",
    summary: inWords(points, ({ threshold }) => `the threshold is ${threshold.toFixed(3)}`),
    x,
    y,
    series,
  });
}

function scores({ scores: found = null }) {
  const title = "Score histogram";
  if (found === null) return notMeasured(title, "The calibration of this bundle has rates, and no counts of scores.");
  const all = [bars(found.impostor), bars(found.genuine)];
  const seen = all.flat().filter(([, , share]) => share > RARE);
  const [from, to] = [Math.min(...seen.map(([low]) => low)), Math.max(...seen.map(([, high]) => high))];
  const [strangers, one] = all.map((each) => each.filter(([low, high]) => low >= from && high <= to));
  const top = Math.max(...seen.map(([, , share]) => share)) * 1.05;
  const x = { from, to, label: "Cosine", ticks: ticksOf(from, to, 7), format: (value) => value.toFixed(1) };
  const format = (value) => `${(100 * value).toFixed(0)} %`;
  const y = { from: 0, to: top, label: "Share of pairs", ticks: ticksOf(0, top, 4), format };
  const summary = `Pairs of strangers lie around ${mean(strangers)}, pairs of one person around ${mean(one)}`;
  const series = [
    { name: "Strangers", bars: strangers },
    { name: "One person", bars: one },
  ];
  return histogram({ title, summary, x, y, series });
}

/** Counts over -1..1 as [from, to, share of all]. */
function bars(counts) {
  const all = counts.reduce((sum, each) => sum + each, 0);
  const edge = (index) => (2 * index) / counts.length - 1;
  return counts.map((each, index) => [edge(index), edge(index + 1), each / all]);
}

function mean(histogramBars) {
  return histogramBars.reduce((sum, [low, high, share]) => sum + ((low + high) / 2) * share, 0).toFixed(2);
}

function table(points) {
  const rows = [...points]
    .reverse()
    .map(({ fmr, threshold, tar, tar_low: low, tar_high: high }) =>
      h(
        "tr",
        {},
        h("th", { scope: "row" }, oneIn(fmr)),
        h("td", {}, threshold.toFixed(3)),
        h("td", {}, `${(100 * tar).toFixed(2)} %`),
        h("td", {}, `${(100 * low).toFixed(2)} to ${(100 * high).toFixed(2)} %`),
      ),
    );
  const head = h(
    "tr",
    {},
    ["False-match rate", "Threshold", "True-match rate", "95 % interval"].map((text) =>
      h("th", { scope: "col" }, text),
    ),
  );
  return h(
    "details",
    {},
    h("summary", {}, "As a table"),
    h(
      "div",
      { class: "scroll", tabindex: "0", role: "group", "aria-label": "Operating points" },
      h("table", {}, h("thead", {}, head), h("tbody", {}, rows)),
    ),
  );
}

function inWords(points, say) {
  const some = [points[0], points[Math.floor(points.length / 2)], points.at(-1)];
  return some.map((point) => `At a false-match rate of ${oneIn(point.fmr)} ${say(point)}`).join("; ");
}

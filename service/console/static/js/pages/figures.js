/** The figures of the page System: samples of the metrics as tiles, tables and lists. */

import { histogram, sparkline, ticksOf } from "../charts.js";
import { facts, h } from "../dom.js";
import { count } from "../parts.js";
import { buckets, quantile, total } from "../prometheus.js";

export const REQUESTS = "facesphere_requests_total";
const SECONDS = "facesphere_request_seconds";

/** Routes of this page itself: what they count is no work of the server's. */
export const OWN = ["/metrics", "/health/ready", "/health/live", "/openapi.json", "/", "/console", "/console/", "none"];

/** All requests but those, as one histogram of seconds. */
export function work(samples) {
  const all = new Map();
  for (const { labels } of samples.get(`${SECONDS}_count`) ?? []) {
    if (OWN.includes(labels.route)) continue;
    for (const [bound, inside] of buckets(samples, SECONDS, { route: labels.route, protocol: labels.protocol }))
      all.set(bound, (all.get(bound) ?? 0) + inside);
  }
  return [...all].sort(([a], [b]) => a - b);
}

/** A number, what it is, and how it went lately. */
export function tile(title, value, hint, values) {
  return h(
    "section",
    { class: "card tile", "aria-label": title },
    h("h2", {}, title),
    h("p", { class: "tile-value" }, value),
    h("p", { class: "hint" }, hint),
    sparkline(values, `${title} since this page was opened`),
  );
}

/** What runs on what, and how much is enrolled. */
export function serverFacts(samples, ready, version) {
  const models = (samples.get("facesphere_model_info") ?? []).map(({ labels }) => [
    labels.kind === "embedder" ? "Embedder" : "Detector",
    h(
      "span",
      {},
      labels.id,
      " on ",
      h("strong", {}, labels.device),
      h("span", { class: "hint" }, ` contract ${labels.contract_id}`),
    ),
  ]);
  const what = (name) => total(samples, "facesphere_gallery", { what: name });
  return facts([
    ["State", h("span", { class: `badge small ${ready === "ready" ? "good" : "bad"}` }, ready)],
    ["Version", version],
    ...models,
    [
      "Enrolled",
      `${count(what("faces"), "face")} of ${count(what("subjects"), "person", "people")} in ${count(what("collections"), "collection")}`,
    ],
  ]);
}

/** How long each stage of a photo takes. */
export function stageTable(samples) {
  const names = [...new Set((samples.get("facesphere_stage_seconds_count") ?? []).map(({ labels }) => labels.stage))];
  if (names.length === 0) return h("p", { class: "hint" }, "No photo was worked on yet.");
  const rows = names.map((stage) => {
    const found = buckets(samples, "facesphere_stage_seconds", { stage });
    const [sum, times] = ["sum", "count"].map((kind) => total(samples, `facesphere_stage_seconds_${kind}`, { stage }));
    return [stage, times.toLocaleString("en"), seconds(sum / times), seconds(quantile(found, 0.95) ?? 0)];
  });
  return table("Stages of the work", ["Stage", "Times", "Mean", "95 % within"], rows);
}

/** The routes with most answers. */
export function answerTable(samples) {
  const counts = new Map();
  for (const { labels, value } of samples.get(REQUESTS) ?? []) {
    if (OWN.includes(labels.route)) continue;
    const key = `${labels.route} ${labels.protocol} ${labels.code}`;
    counts.set(key, [labels.route, labels.protocol, labels.code, value + (counts.get(key)?.[3] ?? 0)]);
  }
  if (counts.size === 0) return h("p", { class: "hint" }, "Nothing was asked yet.");
  const rows = [...counts.values()]
    .sort((a, b) => b[3] - a[3])
    .slice(0, 12)
    .map(([route, protocol, code, value]) => [breakable(route), protocol, code, value.toLocaleString("en")]);
  return table("Answers by route", ["Route", "Protocol", "Code", "Answers"], rows);
}

/** A path that may go on in the next line after a slash. */
function breakable(route) {
  return route.split(/(?<=\/)/).flatMap((part) => [part, h("wbr")]);
}

/** What was decided, and on which similarities. */
export function decisionView(samples) {
  const parts = ["verify", "identify"].map((kind) => {
    const [match, other] = ["match", "no_match"].map((decision) =>
      total(samples, "facesphere_similarity_count", { kind, decision }),
    );
    return [kind, match.toLocaleString("en"), other.toLocaleString("en")];
  });
  const found = buckets(samples, "facesphere_similarity").filter(([bound]) => Number.isFinite(bound));
  const bars = found.map(([bound, inside]) => [bound - 0.1, bound, inside]);
  const top = Math.max(...bars.map(([, , inside]) => inside), 1);
  const y = {
    from: 0,
    to: top * 1.05,
    label: "Decisions",
    ticks: ticksOf(0, top, 4).filter(Number.isInteger),
    format: (value) => value.toLocaleString("en"),
  };
  const x = {
    from: -0.3,
    to: 1,
    label: "Cosine that was decided on",
    ticks: [-0.2, 0, 0.2, 0.4, 0.6, 0.8, 1],
    format: (value) => value.toFixed(1),
  };
  const summary = bars
    .filter(([, , inside]) => inside > 0)
    .map(([, bound, inside]) => `up to ${bound.toFixed(1)}: ${inside}`)
    .join(", ");
  return [
    table("Decisions since the server was started", ["Decision", "Match", "No match"], parts),
    histogram({ title: "Similarities", summary: summary || "None yet", x, y, series: [{ name: "Decisions", bars }] }),
  ];
}

function table(label, heads, rows) {
  return h(
    "div",
    { class: "scroll", tabindex: "0", role: "group", "aria-label": label },
    h(
      "table",
      {},
      h(
        "thead",
        {},
        h(
          "tr",
          {},
          heads.map((text) => h("th", { scope: "col" }, text)),
        ),
      ),
      h(
        "tbody",
        {},
        rows.map(([first, ...rest]) =>
          h(
            "tr",
            {},
            h("th", { scope: "row" }, first),
            rest.map((cell) => h("td", {}, cell)),
          ),
        ),
      ),
    ),
  );
}

/** A duration as people read it. */
export function seconds(value) {
  return value < 1 ? `${(1000 * value).toFixed(value < 0.01 ? 1 : 0)} ms` : `${value.toFixed(2)} s`;
}

/** How the server is doing: what its metrics say, now and over the last minutes. */

import { histogram, sparkline, ticksOf } from "../charts.js";
import { facts, h, put } from "../dom.js";
import { count, errorBox, waiting } from "../parts.js";
import { buckets, parse, quantile, since, total } from "../prometheus.js";

const EVERY_MS = 2000;
const REMEMBERED = 90;
const REQUESTS = "facesphere_requests_total";
const SECONDS = "facesphere_request_seconds";

export const systemPage = {
  title: "System",
  lead: "Throughput, queue and latency of this server, from its metrics.",
  mount(place, api) {
    const page = new System(api);
    put(place, page.element);
    page.begin();
    return () => page.close();
  },
};

class System {
  #api;
  #timer = null;
  #paused = false;
  #closed = false;
  #looks = []; // {at, samples}, the newest last
  #tiles = h("div", { class: "tiles" });
  #about = h("section", { class: "card", "aria-label": "Server" }, h("h2", {}, "Server"), waiting("Asking the server"));
  #stages = h("section", { class: "card", "aria-label": "Where the time goes" });
  #answers = h("section", { class: "card", "aria-label": "Answers" });
  #decisions = h("section", { class: "card", "aria-label": "Decisions" });
  #problem = h("div");

  constructor(api) {
    this.#api = api;
    const pause = h("button", { type: "button", "aria-pressed": "false" }, "Pause");
    pause.addEventListener("click", () => {
      this.#paused = !this.#paused;
      pause.setAttribute("aria-pressed", String(this.#paused));
      if (!this.#paused) this.#look();
    });
    const head = h("div", { class: "row between" }, h("p", { class: "hint" }, `Read every ${EVERY_MS / 1000} s while this page is in sight.`), pause);
    this.element = h("div", { class: "stack" }, head, this.#problem, this.#tiles, h("div", { class: "split even" }, this.#about, this.#stages), h("div", { class: "split even" }, this.#answers, this.#decisions));
  }

  begin() {
    this.#look();
  }

  close() {
    this.#closed = true;
    clearTimeout(this.#timer);
  }

  async #look() {
    clearTimeout(this.#timer);
    try {
      if (!document.hidden) await this.#read();
    } catch (error) {
      put(this.#problem, errorBox(error));
      if (this.#looks.length === 0) put(this.#about, h("h2", {}, "Server"), h("p", { class: "hint" }, "Without the metrics there is nothing to show."));
    }
    if (!this.#closed && !this.#paused) this.#timer = setTimeout(() => this.#look(), EVERY_MS);
  }

  async #read() {
    const [ready, version] = await Promise.all([this.#ready(), this.#version()]);
    const text = await this.#api.get("/metrics", { text: true }); // alone, so that it counts one open request of this page
    if (this.#closed) return;
    put(this.#problem);
    this.#looks.push({ at: performance.now(), samples: parse(text) });
    this.#looks.splice(0, this.#looks.length - REMEMBERED);
    this.#show(ready, version);
  }

  async #ready() {
    try {
      return (await this.#api.get("/health/ready")).status;
    } catch (error) {
      return error.code; // not_ready, in the server's words
    }
  }

  #known = null;

  async #version() {
    this.#known ??= (await this.#api.get("/openapi.json")).info.version;
    return this.#known;
  }

  #show(ready, version) {
    const { samples } = this.#looks.at(-1);
    put(this.#tiles, this.#throughput(), this.#latency(), this.#gauge("Queue", ["facesphere_embed_queue", "facesphere_photos_pending"], "faces and photos waiting"), this.#gauge("Open requests", ["facesphere_requests_open"], "not answered yet", 1));
    put(this.#about, h("h2", {}, "Server"), serverFacts(samples, ready, version));
    put(this.#stages, h("h2", {}, "Where the time goes"), stageTable(samples));
    put(this.#answers, h("h2", {}, "Answers"), answerTable(samples));
    put(this.#decisions, h("h2", {}, "Decisions"), decisionView(samples));
  }

  #throughput() {
    // This page's own calls are left out: they would be all that an idle server seems to do.
    const work = ({ samples }) => total(samples, REQUESTS) - OWN.reduce((sum, route) => sum + total(samples, REQUESTS, { route }), 0);
    const rates = this.#pairs(({ at: t0, ...before }, { at: t1, ...now }) => (1000 * Math.max(work(now) - work(before), 0)) / (t1 - t0));
    const now = rates.at(-1);
    return tile("Throughput", now === undefined ? "—" : `${now.toFixed(now < 10 ? 1 : 0)} /s`, "requests, without files and figures of this page", rates);
  }

  #latency() {
    const histograms = this.#looks.map(({ samples }) => work(samples));
    const recent = histograms.length > 1 ? since(histograms.at(-1), histograms[0]) : histograms[0];
    const [half, most] = [quantile(recent, 0.5), quantile(recent, 0.95)];
    const steps = histograms.slice(1).map((each, index) => quantile(since(each, histograms[index]), 0.95) ?? 0);
    return tile("Latency", half === null ? "—" : seconds(half), half === null ? "no request since this page was opened" : `median; 95 % within ${seconds(most)}`, steps);
  }

  /** `own`: how much of it is this page asking. */
  #gauge(title, names, hint, own = 0) {
    const values = this.#looks.map(({ samples }) => Math.max(names.reduce((sum, name) => sum + total(samples, name), 0) - own, 0));
    return tile(title, String(values.at(-1)), hint, values);
  }

  #pairs(measure) {
    return this.#looks.slice(1).map((now, index) => measure(this.#looks[index], now));
  }
}

const OWN = ["/metrics", "/health/ready", "/health/live", "/openapi.json", "/", "/console", "/console/", "none"];

function work(samples) {
  const all = new Map();
  for (const { labels } of samples.get(`${SECONDS}_count`) ?? []) {
    if (OWN.includes(labels.route)) continue;
    for (const [bound, inside] of buckets(samples, SECONDS, { route: labels.route, protocol: labels.protocol })) all.set(bound, (all.get(bound) ?? 0) + inside);
  }
  return [...all].sort(([a], [b]) => a - b);
}

function tile(title, value, hint, values) {
  return h("section", { class: "card tile", "aria-label": title }, h("h2", {}, title), h("p", { class: "tile-value" }, value), h("p", { class: "hint" }, hint), sparkline(values, `${title} since this page was opened`));
}

function serverFacts(samples, ready, version) {
  const models = (samples.get("facesphere_model_info") ?? []).map(({ labels }) => [labels.kind === "embedder" ? "Embedder" : "Detector", h("span", {}, labels.id, " on ", h("strong", {}, labels.device), h("span", { class: "hint" }, ` contract ${labels.contract_id}`))]);
  const what = (name) => total(samples, "facesphere_gallery", { what: name });
  return facts([
    ["State", h("span", { class: `badge small ${ready === "ready" ? "good" : "bad"}` }, ready)],
    ["Version", version],
    ...models,
    ["Enrolled", `${count(what("faces"), "face")} of ${count(what("subjects"), "person", "people")} in ${count(what("collections"), "collection")}`],
  ]);
}

function stageTable(samples) {
  const names = [...new Set((samples.get("facesphere_stage_seconds_count") ?? []).map(({ labels }) => labels.stage))];
  if (names.length === 0) return h("p", { class: "hint" }, "No photo was worked on yet.");
  const rows = names.map((stage) => {
    const found = buckets(samples, "facesphere_stage_seconds", { stage });
    const [sum, times] = ["sum", "count"].map((kind) => total(samples, `facesphere_stage_seconds_${kind}`, { stage }));
    return [stage, times.toLocaleString("en"), seconds(sum / times), seconds(quantile(found, 0.95) ?? 0)];
  });
  return table("Stages of the work", ["Stage", "Times", "Mean", "95 % within"], rows);
}

function answerTable(samples) {
  const counts = new Map();
  for (const { labels, value } of samples.get(REQUESTS) ?? []) {
    if (OWN.includes(labels.route)) continue;
    const key = `${labels.route} ${labels.protocol} ${labels.code}`;
    counts.set(key, [labels.route, labels.protocol, labels.code, value + (counts.get(key)?.[3] ?? 0)]);
  }
  if (counts.size === 0) return h("p", { class: "hint" }, "Nothing was asked yet.");
  const rows = [...counts.values()].sort((a, b) => b[3] - a[3]).slice(0, 12).map(([route, protocol, code, value]) => [route, protocol, code, value.toLocaleString("en")]);
  return table("Answers by route", ["Route", "Protocol", "Code", "Answers"], rows);
}

function decisionView(samples) {
  const parts = ["verify", "identify"].map((kind) => {
    const [match, other] = ["match", "no_match"].map((decision) => total(samples, "facesphere_similarity_count", { kind, decision }));
    return [kind, match.toLocaleString("en"), other.toLocaleString("en")];
  });
  const found = buckets(samples, "facesphere_similarity").filter(([bound]) => Number.isFinite(bound));
  const bars = found.map(([bound, inside]) => [bound - 0.1, bound, inside]);
  const top = Math.max(...bars.map(([, , inside]) => inside), 1);
  const y = { from: 0, to: top * 1.05, label: "Decisions", ticks: ticksOf(0, top, 4).filter(Number.isInteger), format: (value) => value.toLocaleString("en") };
  const x = { from: -0.3, to: 1, label: "Cosine that was decided on", ticks: [-0.2, 0, 0.2, 0.4, 0.6, 0.8, 1], format: (value) => value.toFixed(1) };
  const summary = bars.filter(([, , inside]) => inside > 0).map(([, bound, inside]) => `up to ${bound.toFixed(1)}: ${inside}`).join(", ");
  return [table("Decisions since the server was started", ["Decision", "Match", "No match"], parts), histogram({ title: "Similarities", summary: summary || "None yet", x, y, series: [{ name: "Decisions", bars }] })];
}

function table(label, heads, rows) {
  return h("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": label }, h("table", {}, h("thead", {}, h("tr", {}, heads.map((text) => h("th", { scope: "col" }, text)))), h("tbody", {}, rows.map(([first, ...rest]) => h("tr", {}, h("th", { scope: "row" }, first), rest.map((cell) => h("td", {}, cell)))))));
}

function seconds(value) {
  return value < 1 ? `${(1000 * value).toFixed(value < 0.01 ? 1 : 0)} ms` : `${value.toFixed(2)} s`;
}

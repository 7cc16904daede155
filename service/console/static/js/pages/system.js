/** How the server is doing: what its metrics say, now and over the last minutes. */

import { h, put } from "../dom.js";
import { errorBox, waiting } from "../parts.js";
import { parse, quantile, since, total } from "../prometheus.js";
import { OWN, REQUESTS, answerTable, decisionView, seconds, serverFacts, stageTable, tile, work } from "./figures.js";

const EVERY_MS = 2000;
const REMEMBERED = 90;

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
    const head = h(
      "div",
      { class: "row between" },
      h("p", { class: "hint" }, `Read every ${EVERY_MS / 1000} s while this page is in sight.`),
      pause,
    );
    this.element = h(
      "div",
      { class: "stack" },
      head,
      this.#problem,
      this.#tiles,
      h("div", { class: "split even" }, this.#about, this.#stages),
      h("div", { class: "split even" }, this.#answers, this.#decisions),
    );
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
      if (this.#looks.length === 0)
        put(
          this.#about,
          h("h2", {}, "Server"),
          h("p", { class: "hint" }, "Without the metrics there is nothing to show."),
        );
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
    put(
      this.#tiles,
      this.#throughput(),
      this.#latency(),
      this.#gauge("Queue", ["facesphere_embed_queue", "facesphere_photos_pending"], "faces and photos waiting"),
      this.#gauge("Open requests", ["facesphere_requests_open"], "not answered yet", 1),
    );
    put(this.#about, h("h2", {}, "Server"), serverFacts(samples, ready, version));
    put(this.#stages, h("h2", {}, "Where the time goes"), stageTable(samples));
    put(this.#answers, h("h2", {}, "Answers"), answerTable(samples));
    put(this.#decisions, h("h2", {}, "Decisions"), decisionView(samples));
  }

  #throughput() {
    // This page's own calls are left out: they would be all that an idle server seems to do.
    const done = ({ samples }) =>
      total(samples, REQUESTS) - OWN.reduce((sum, route) => sum + total(samples, REQUESTS, { route }), 0);
    const rates = this.#pairs(
      ({ at: t0, ...before }, { at: t1, ...now }) => (1000 * Math.max(done(now) - done(before), 0)) / (t1 - t0),
    );
    const now = rates.at(-1);
    return tile(
      "Throughput",
      now === undefined ? "—" : `${now.toFixed(now < 10 ? 1 : 0)} /s`,
      "requests, without files and figures of this page",
      rates,
    );
  }

  #latency() {
    const histograms = this.#looks.map(({ samples }) => work(samples));
    const recent = histograms.length > 1 ? since(histograms.at(-1), histograms[0]) : histograms[0];
    const [half, most] = [quantile(recent, 0.5), quantile(recent, 0.95)];
    const steps = histograms.slice(1).map((each, index) => quantile(since(each, histograms[index]), 0.95) ?? 0);
    return tile(
      "Latency",
      half === null ? "—" : seconds(half),
      half === null ? "no request since this page was opened" : `median; 95 % within ${seconds(most)}`,
      steps,
    );
  }

  /** `own`: how much of it is this page asking. */
  #gauge(title, names, hint, own = 0) {
    const values = this.#looks.map(({ samples }) =>
      Math.max(names.reduce((sum, name) => sum + total(samples, name), 0) - own, 0),
    );
    return tile(title, String(values.at(-1)), hint, values);
  }

  #pairs(measure) {
    return this.#looks.slice(1).map((now, index) => measure(this.#looks[index], now));
  }
}

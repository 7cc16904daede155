/** Models of the registry: which is served, what is known of each, and the jobs that change it. */

import { path } from "../api.js";
import { announce, h, put } from "../dom.js";
import { confirmed, doing, errorBox, waiting, when } from "../parts.js";
import { modelDetail } from "./model.js";

const POLL_MS = 1000;
const OPEN_STATES = ["queued", "running"];

export const modelsPage = {
  title: "Models",
  lead: "What is served, what was, and what may be. Vectors of two models never meet in one comparison.",
  mount(place, api) {
    const page = new Models(api);
    put(place, page.element);
    page.load();
    return () => page.close();
  },
};

class Models {
  #api;
  #chosen = null;
  #timer = null;
  #closed = false;
  #list = h("ul", { class: "choices" });
  #view = h("div", { class: "stack" });
  #jobs = h("div", { class: "stack" });
  #shadow = h("div", { class: "stack" });
  #problem = h("div");

  constructor(api) {
    this.#api = api;
    const back = h("button", { type: "button", on: { click: () => this.#rollBack() } }, "Roll back");
    this.element = h(
      "div",
      { class: "split narrow-first" },
      h(
        "div",
        { class: "stack" },
        h(
          "section",
          { class: "card", "aria-label": "Versions" },
          h("div", { class: "row between" }, h("h2", {}, "Versions"), back),
          this.#problem,
          this.#list,
        ),
        h("section", { class: "card", "aria-label": "Jobs" }, h("h2", {}, "Jobs"), this.#jobs),
        h("section", { class: "card", "aria-label": "Shadow" }, h("h2", {}, "In shadow"), this.#shadow),
      ),
      this.#view,
    );
  }

  async load() {
    if (this.#list.children.length === 0) put(this.#problem, waiting("Reading the models"));
    try {
      const { models } = await this.#api.get("/models");
      if (this.#closed) return;
      put(this.#problem);
      this.#showList(models);
    } catch (error) {
      put(this.#problem, errorBox(error));
    }
    await this.#loadJobs();
  }

  close() {
    this.#closed = true;
    clearTimeout(this.#timer);
  }

  #showList(models) {
    const order = { champion: 0, candidate: 1, retired: 2 };
    models.sort(
      (a, b) =>
        (b.kind === "embedder") - (a.kind === "embedder") ||
        order[a.standing] - order[b.standing] ||
        a.id.localeCompare(b.id),
    );
    if (!models.some(({ id }) => id === this.#chosen)) this.#chosen = models[0]?.id ?? null;
    put(
      this.#list,
      models.map((each) => h("li", {}, this.#choice(each))),
    );
    this.#loadShadow(models.some(({ in_shadow: there }) => there));
    if (this.#chosen) this.#showModel(this.#chosen);
  }

  #choice({ id, kind, standing, loaded, in_shadow: shadow }) {
    const choose = () => {
      this.#chosen = id;
      for (const button of this.#list.querySelectorAll("button"))
        button.setAttribute("aria-pressed", String(button.dataset.id === id));
      this.#showModel(id);
    };
    return h(
      "button",
      {
        type: "button",
        class: "choice",
        "aria-pressed": String(id === this.#chosen),
        data: { id },
        on: { click: choose },
      },
      h("span", { class: "choice-name" }, id),
      h(
        "span",
        { class: "row tight" },
        h("span", { class: `badge small ${standing === "champion" ? "good" : "plain"}` }, standing),
        loaded && h("span", { class: "badge small plain" }, "loaded"),
        shadow && h("span", { class: "badge small warn" }, "in shadow"),
        h("span", { class: "hint" }, kind),
      ),
    );
  }

  async #showModel(id) {
    if (this.#view.dataset.id !== id) put(this.#view, h("section", { class: "card" }, waiting("Reading the model")));
    this.#view.dataset.id = id;
    try {
      const model = await this.#api.get(path`/models/${id}`);
      if (this.#chosen === id)
        put(
          this.#view,
          modelDetail(model, { activate: () => this.#activate(id), shadow: (share) => this.#beginShadow(id, share) }),
        );
    } catch (error) {
      if (this.#chosen === id) put(this.#view, h("section", { class: "card" }, errorBox(error)));
    }
  }

  #activate(id) {
    const text = `${id} is promoted and decides from then on. Collections whose faces have crops are embedded anew and follow; others stay on their model.`;
    confirmed(`Activate ${id}?`, text, "Activate", () =>
      this.#begin("POST", path`/models/${id}/activate`, `Activation of ${id} has begun.`),
    );
  }

  #rollBack() {
    confirmed(
      "Roll back?",
      "The model before the present one decides from then on, and collections go back with it.",
      "Roll back",
      () => this.#begin("POST", "/models/rollback", "The way back has begun."),
    );
  }

  async #begin(method, url, text) {
    await this.#api.call(method, url);
    announce(text);
    await this.load();
  }

  async #loadJobs() {
    clearTimeout(this.#timer);
    try {
      const { jobs } = await this.#api.get("/jobs", { query: { limit: 5 } });
      put(
        this.#jobs,
        jobs.length
          ? h("ul", { class: "rows" }, jobs.map(jobItem))
          : h("p", { class: "hint" }, "No model was changed yet."),
      );
      if (jobs.some(({ state }) => OPEN_STATES.includes(state)) && !this.#closed)
        this.#timer = setTimeout(() => this.#follow(jobs), POLL_MS);
    } catch (error) {
      put(this.#jobs, refusal(error));
    }
  }

  /** While a job is open; at its end the list of models is another. */
  async #follow(before) {
    await this.#loadJobs();
    const open = this.#jobs.querySelectorAll("progress").length;
    if (open === 0 && before.length > 0 && !this.#closed) {
      announce("The job has ended.");
      await this.load();
    }
  }

  async #loadShadow(there = true) {
    if (!there)
      return put(this.#shadow, h("p", { class: "hint" }, "No candidate is compared with the model that answers."));
    try {
      put(this.#shadow, this.#shadowView(await this.#api.get("/models/shadow")));
    } catch (error) {
      put(this.#shadow, refusal(error));
    }
    return undefined;
  }

  #shadowView(found) {
    const place = h("div");
    const end = h("button", { type: "button" }, "End");
    end.addEventListener("click", () =>
      doing(end, place, async () => {
        await this.#api.call("DELETE", "/models/shadow");
        await this.load();
      }),
    );
    const changed = found.flipped_to_match + found.flipped_to_non_match;
    const text =
      found.compared === 0
        ? "Nothing was compared yet."
        : `Of ${found.compared} comparisons ${found.same} were decided alike, ${changed} otherwise (${found.flipped_to_match} to a match, ${found.flipped_to_non_match} to no match).`;
    return [
      h("p", {}, h("strong", {}, found.model_id), ` on ${Math.round(found.share * 100)} % of /verify`),
      h("p", {}, text),
      place,
      h(
        "div",
        { class: "row" },
        end,
        h("button", { type: "button", class: "quiet", on: { click: () => this.#loadShadow() } }, "Refresh"),
      ),
    ];
  }

  async #beginShadow(id, share) {
    await this.#api.call("POST", path`/models/${id}/shadow`, { query: { share } });
    announce(`${id} is in shadow.`);
    await this.load();
  }
}

function jobItem({ kind, model_id: model, state, progress, error, collections, created_at: created }) {
  const open = OPEN_STATES.includes(state);
  const tone = { done: "good", failed: "bad", cancelled: "warn" }[state] ?? "plain";
  return h(
    "li",
    {},
    h("p", { class: "row tight" }, h("strong", {}, kind), model, h("span", { class: `badge small ${tone}` }, state)),
    open &&
      h(
        "progress",
        { max: "1", value: String(progress), "aria-label": `Progress of ${kind} ${model}` },
        `${Math.round(progress * 100)} %`,
      ),
    error && h("p", { class: "notice bad" }, error),
    collections.map(({ collection, state: became, reason, without_crop: without }) =>
      h(
        "p",
        { class: "hint" },
        `${collection ?? "an erased collection"}: ${became}${reason ? `, ${reason}` : ""}${without ? `, ${without} faces without a crop` : ""}`,
      ),
    ),
    h("p", { class: "hint" }, when(created)),
  );
}

/** What this key may not see is no failure of the page. */
function refusal(error) {
  return error.status === 403 ? h("p", { class: "hint" }, error.message) : errorBox(error);
}

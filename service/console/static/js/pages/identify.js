/** A photo of one or many people: who of a collection are they? Whoever is not found is shown as unknown. */

import { path } from "../api.js";
import { announce, facts, field, h, put } from "../dom.js";
import { count, empty, errorBox, percent, waiting } from "../parts.js";
import { Photo } from "../photo.js";
import { photoPicker } from "../picker.js";
import { warnings } from "../quality.js";

const RATES = [
  ["", "the server's own"],
  ["0.1", "1 in 10"],
  ["0.01", "1 in 100"],
  ["0.001", "1 in 1,000"],
  ["0.0001", "1 in 10,000"],
];

export const identifyPage = {
  title: "Identify",
  lead: "Who is in this photo? Every face is searched for in a collection, and named only above its threshold.",
  mount(place, api) {
    const page = new Identify(api);
    put(place, page.element);
    page.load();
    return () => page.close();
  },
};

class Identify {
  #api;
  #file = null;
  #photo = null;
  #abort = null;
  #canvas = h("canvas", { role: "img", class: "photo", hidden: true });
  #collection = h("select", { required: true });
  #rate = h(
    "select",
    {},
    RATES.map(([value, text]) => h("option", { value }, text)),
  );
  #result = h("div", { class: "stack" });

  constructor(api) {
    this.#api = api;
    const picker = photoPicker({ title: "Photo to identify", give: ([file]) => this.#take(file), stage: this.#canvas });
    for (const select of [this.#collection, this.#rate]) select.addEventListener("change", () => this.#identify());
    const controls = h(
      "div",
      { class: "controls" },
      field("Collection", this.#collection),
      field("A stranger may be named", this.#rate),
    );
    this.element = h(
      "div",
      { class: "split wide" },
      h("section", { class: "card", "aria-label": "Photo" }, controls, picker),
      h(
        "section",
        { class: "card", "aria-label": "People in the photo" },
        h("h2", {}, "People in the photo"),
        this.#result,
      ),
    );
    put(this.#result, h("p", { class: "placeholder" }, "Give a photo: its faces will be boxed and named."));
  }

  async load() {
    try {
      const { collections } = await this.#api.get("/collections");
      put(
        this.#collection,
        collections.map(({ name, subjects }) =>
          h("option", { value: name }, `${name} (${count(subjects, "person", "people")})`),
        ),
      );
      if (collections.length === 0)
        put(this.#result, empty("There is no collection yet", "Create one under People, and enrol somebody."));
      if (this.#file) this.#identify();
    } catch (error) {
      put(this.#result, errorBox(error));
    }
  }

  close() {
    this.#abort?.abort();
    this.#photo?.close();
    this.#photo = null;
  }

  async #take(file) {
    this.close();
    this.#file = file;
    try {
      const photo = await Photo.open(file);
      if (this.#file !== file) return photo.close(); // another was given meanwhile
      this.#photo = photo;
      photo.draw(this.#canvas);
    } catch {
      this.#photo = null; // the server says what is wrong with it
    }
    this.#canvas.hidden = this.#photo === null;
    return this.#identify();
  }

  async #identify() {
    if (!this.#file || !this.#collection.value) return;
    this.#abort?.abort();
    const mine = (this.#abort = new AbortController());
    put(this.#result, waiting("Searching"));
    const parts = [
      ["image", this.#file],
      ["faces", "all"],
      ["limit", "5"],
    ];
    if (this.#rate.value) parts.push(["target_fpir", this.#rate.value]);
    try {
      const { results } = await this.#api.call("POST", path`/collections/${this.#collection.value}/identify`, {
        parts,
        signal: mine.signal,
      });
      if (!mine.signal.aborted) this.#show(results);
    } catch (error) {
      if (mine.signal.aborted) return;
      this.#photo?.draw(this.#canvas);
      put(this.#result, errorBox(error));
    }
  }

  #show(results) {
    const marks = results.map((result, index) => ({
      face: result.face,
      label: nameOf(result),
      tone: result.decision,
      rank: index + 1,
    }));
    this.#photo?.draw(this.#canvas, marks);
    if (results.length === 0) {
      put(this.#result, empty("No face in this photo", "Nobody was searched for."));
      announce("No face in this photo.");
      return;
    }
    const known = results.filter(({ decision }) => decision === "known").length;
    const [{ threshold, target_fpir: fpir, gallery_size: size }] = results;
    const grounds = fpir === null ? "" : `, where a stranger is named in at most ${percent(fpir)} of searches`;
    put(
      this.#result,
      h("p", {}, `${count(results.length, "face")}: ${known} known, ${results.length - known} unknown.`),
      h(
        "ol",
        { class: "faces" },
        results.map((result) => this.#faceItem(result)),
      ),
      h(
        "p",
        { class: "hint" },
        `Searched ${count(size, "face")}; named at a similarity of ${threshold.toFixed(3)} or more${grounds}.`,
      ),
    );
    announce(`${count(results.length, "face")} found, ${known} known.`);
  }

  #faceItem(result) {
    const [best, ...others] = result.candidates;
    const crop = h("canvas", { class: "crop", "aria-hidden": "true" });
    this.#photo?.drawFace(crop, result.face);
    const notes = warnings(result.face).map((text) => h("p", { class: "notice" }, text));
    const about = best
      ? [
          facts(
            [
              ["Probability", percent(best.probability)],
              ["Similarity", best.similarity.toFixed(3)],
              ["Angle", `${best.angle_degrees.toFixed(1)}°`],
            ],
            "inline",
          ),
          others.length > 0 &&
            h(
              "p",
              { class: "hint" },
              `Also above the threshold: ${others.map(({ subject, similarity }) => `${subject} (${similarity.toFixed(3)})`).join(", ")}`,
            ),
        ]
      : h("p", { class: "hint" }, "Nobody of the collection is alike enough.");
    const known = result.decision === "known";
    return h(
      "li",
      { class: "face" },
      crop,
      h(
        "div",
        { class: "grow" },
        h(
          "p",
          { class: "face-name" },
          nameOf(result),
          h("span", { class: `badge small ${known ? "good" : "warn"}` }, result.decision),
        ),
        about,
        notes,
      ),
    );
  }
}

function nameOf({ decision, candidates }) {
  return decision === "known" ? candidates[0].subject : "unknown";
}

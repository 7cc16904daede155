/** One collection: who is in it, page by page, and their faces. */

import { path } from "../api.js";
import { facts, h, put } from "../dom.js";
import { confirmed, count, empty, errorBox, meter, oneIn, showReceipt, waiting, when } from "../parts.js";
import { enrolForm } from "./enrol.js";

const PAGE = 20;

/** `changed` is called after people came or went, `erase` to erase the collection itself. */
export class CollectionView {
  #api;
  #name;
  #changed;
  #cursors = [null]; // of the pages up to the one that is shown
  #people = h("div", { class: "stack" });

  constructor(api, collection, { changed, erase }) {
    this.#api = api;
    this.#name = collection.name;
    this.#changed = changed;
    const refresh = () => {
      this.load();
      changed();
    };
    this.element = h(
      "div",
      { class: "stack" },
      h(
        "section",
        { class: "card", "aria-label": "Collection" },
        h(
          "div",
          { class: "row between" },
          h("h2", {}, collection.name),
          h("button", { type: "button", class: "danger quiet", on: { click: erase } }, "Erase collection"),
        ),
        h("p", {}, collection.purpose),
        settingsOf(collection),
      ),
      enrolForm(api, collection, refresh),
      h("section", { class: "card", "aria-label": "People" }, h("h2", {}, "People"), this.#people),
    );
  }

  async load() {
    if (this.#people.children.length === 0) put(this.#people, waiting("Reading the people"));
    try {
      const query = { limit: PAGE, cursor: this.#cursors.at(-1) };
      const { subjects, next_cursor: next } = await this.#api.get(path`/collections/${this.#name}/subjects`, { query });
      if (subjects.length === 0 && this.#cursors.length > 1) return this.#turn(() => this.#cursors.pop());
      put(
        this.#people,
        subjects.length ? this.#table(subjects) : empty("Nobody is enrolled", "Give photos of somebody above."),
        this.#pager(next),
      );
    } catch (error) {
      put(this.#people, errorBox(error));
    }
    return undefined;
  }

  #turn(change) {
    change();
    return this.load();
  }

  #pager(next) {
    if (next === null && this.#cursors.length === 1) return null;
    const button = (text, enabled, change) =>
      h("button", { type: "button", disabled: !enabled, on: { click: () => this.#turn(change) } }, text);
    return h(
      "nav",
      { class: "row between", "aria-label": "Pages of people" },
      button("Previous", this.#cursors.length > 1, () => this.#cursors.pop()),
      h("span", { class: "hint" }, `Page ${this.#cursors.length}`),
      button("Next", next !== null, () => this.#cursors.push(next)),
    );
  }

  #table(subjects) {
    return h(
      "ul",
      { class: "rows" },
      subjects.map((each) => this.#person(each)),
    );
  }

  #person({ subject, faces, created_at: created }) {
    const place = h("div", { class: "row-detail", hidden: true });
    const open = h("button", { type: "button", class: "row-name", "aria-expanded": "false" }, subject);
    open.addEventListener("click", () => {
      place.hidden = !place.hidden;
      open.setAttribute("aria-expanded", String(!place.hidden));
      if (!place.hidden) this.#showFaces(place, subject);
    });
    const erase = h(
      "button",
      {
        type: "button",
        class: "danger quiet",
        "aria-label": `Erase ${subject}`,
        on: { click: () => this.#erase(subject, faces) },
      },
      "Erase",
    );
    return h(
      "li",
      {},
      h(
        "div",
        { class: "row" },
        open,
        h("span", { class: "hint grow" }, `${count(faces, "face")}, since `, when(created)),
        erase,
      ),
      place,
    );
  }

  async #showFaces(place, subject) {
    put(place, waiting("Reading the faces"));
    try {
      const { faces } = await this.#api.get(path`/collections/${this.#name}/subjects/${subject}`);
      put(
        place,
        h(
          "ul",
          { class: "rows inner" },
          faces.map((face, index) => this.#face(subject, face, index + 1)),
        ),
      );
    } catch (error) {
      put(place, errorBox(error));
    }
  }

  #face(subject, face, number) {
    const about = [
      [
        "Quality",
        face.quality === null
          ? "not known: an embedding"
          : meter(face.quality, `Quality of face ${number} of ${subject}`),
      ],
      ["Consent", face.consent ?? "—"],
      ["Crop", face.has_crop ? "kept" : "not kept"],
      ["Enrolled", when(face.created_at)],
      ["Id", h("code", { class: "wrap" }, face.face_id)],
    ];
    const erase = h(
      "button",
      {
        type: "button",
        class: "danger quiet",
        "aria-label": `Erase face ${number} of ${subject}`,
        on: { click: () => this.#eraseFace(subject, face) },
      },
      "Erase face",
    );
    return h("li", { class: "row" }, facts(about, "inline grow"), erase);
  }

  #erase(subject, faces) {
    confirmed(
      `Erase ${subject}?`,
      `${subject} is erased from ${this.#name} with ${count(faces, "face")}. Nothing brings them back, a backup neither.`,
      "Erase",
      () => this.#delete(path`/collections/${this.#name}/subjects/${subject}`),
    );
  }

  #eraseFace(subject, { face_id: face }) {
    confirmed(
      `Erase a face of ${subject}?`,
      "The face is erased; with the last one, the person is too.",
      "Erase face",
      () => this.#delete(path`/collections/${this.#name}/subjects/${subject}/faces/${face}`),
    );
  }

  async #delete(url) {
    const receipt = await this.#api.call("DELETE", url);
    this.#changed();
    await this.load();
    showReceipt(receipt);
  }
}

function settingsOf({
  model,
  retention_days: days,
  store_crops: crops,
  require_consent: consent,
  target_fmr: fmr,
  created_at: created,
}) {
  return facts(
    [
      ["Model", model.id],
      ["Faces are erased", days === null ? "when somebody does it" : `after ${count(days, "day")}`],
      ["Crops", crops ? "kept" : "not kept"],
      ["Consent reference", consent ? "required" : "optional"],
      fmr !== null && ["1:1 false-match rate", oneIn(fmr)],
      ["Created", when(created)],
    ],
    "inline",
  );
}

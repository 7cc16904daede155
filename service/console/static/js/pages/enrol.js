/** Enrolling a person: several photos at once, each with what became of it. */

import { path } from "../api.js";
import { announce, field, h, put } from "../dom.js";
import { count, errorBox } from "../parts.js";
import { Photo } from "../photo.js";
import { photoPicker } from "../picker.js";

const AT_ONCE = 2; // photos under way; one call a photo, so that each has its own result as soon as there is one

/** A form that enrols into a collection; `changed` is called when somebody was. */
export function enrolForm(api, collection, changed) {
  const subject = h("input", { type: "text", required: true, autocomplete: "off", spellcheck: "false" });
  const consent = h("input", { type: "text", autocomplete: "off", required: collection.require_consent });
  const results = h("ul", { class: "uploads", "aria-label": "Photos" });
  const summary = h("p", { class: "hint" });
  const form = h(
    "form",
    { class: "controls" },
    field("Person", subject, "A name or number; photos of one person go under one name."),
    field(
      "Consent reference",
      consent,
      collection.require_consent ? "Required here." : "Where the consent is kept, if there is one.",
    ),
  );
  form.addEventListener("submit", (event) => event.preventDefault());
  const give = async (files) => {
    if (!form.reportValidity()) {
      put(summary, "Say first who this is; then give the photos again.");
      return;
    }
    const [name, reference] = [subject.value.trim(), consent.value.trim()];
    put(summary, `Enrolling ${count(files.length, "photo")} of ${name}.`);
    const uploads = files.map((file) => new Upload(file));
    results.prepend(...uploads.map(({ element }) => element));
    const done = await inTurns(uploads, (upload) =>
      upload.send(api, path`/collections/${collection.name}/subjects/${name}/faces`, reference),
    );
    const enrolled = done.filter(Boolean).length;
    const text = `Enrolled ${enrolled} of ${count(files.length, "photo")} of ${name}.`;
    put(summary, text);
    announce(text);
    if (enrolled > 0) changed();
  };
  const picker = photoPicker({ title: "Photos to enrol", several: true, give });
  return h("section", { class: "card", "aria-label": "Enrol" }, h("h2", {}, "Enrol"), form, picker, summary, results);
}

/** One photo on its way. */
class Upload {
  constructor(file) {
    this.file = file;
    this.canvas = h("canvas", { class: "crop", "aria-hidden": "true" });
    this.state = h("div", { class: "grow" }, h("p", { class: "hint" }, "Waiting"));
    this.element = h(
      "li",
      { class: "upload" },
      this.canvas,
      h("div", { class: "grow" }, h("p", { class: "upload-name" }, file.name), this.state),
    );
  }

  /** Whether it was enrolled. */
  async send(api, url, consent) {
    put(this.state, h("p", { class: "hint" }, h("span", { class: "spinner", "aria-hidden": "true" }), "Sending"));
    const parts = [["images", this.file], ...(consent ? [["consent", consent]] : [])];
    const preview = this.#preview();
    try {
      const { faces } = await api.call("POST", url, { parts });
      const [face] = faces;
      put(
        this.state,
        h(
          "p",
          {},
          h("span", { class: "badge small good" }, "enrolled"),
          face.quality === null ? "" : ` quality ${face.quality.toFixed(2)}`,
          face.quality !== null &&
            face.quality < 0.5 &&
            h("span", { class: "hint" }, " low: a sharper, frontal photo would serve better"),
        ),
      );
      return true;
    } catch (error) {
      put(this.state, h("span", { class: "badge small bad" }, "not enrolled"), errorBox(error));
      return false;
    } finally {
      await preview;
    }
  }

  async #preview() {
    try {
      const photo = await Photo.open(this.file);
      const side = Math.min(photo.width, photo.height);
      photo.drawFace(this.canvas, {
        bbox: [
          (photo.width - side) / 2,
          (photo.height - side) / 2,
          (photo.width + side) / 2,
          (photo.height + side) / 2,
        ].map((edge) => edge),
      });
      photo.close();
    } catch {
      this.canvas.hidden = true; // the server says what is wrong with it
    }
  }
}

async function inTurns(items, work) {
  const results = new Array(items.length);
  let next = 0;
  const worker = async () => {
    while (next < items.length) {
      const mine = next;
      next += 1;
      results[mine] = await work(items[mine]);
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, worker));
  return results;
}

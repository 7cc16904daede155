/** Two photos: are they one person? The server is asked once; the slider then decides again from its answer. */

import { anglePicture } from "../angle.js";
import { path } from "../api.js";
import { degrees, fmrRange, probability, rateOf, tarAt, thresholdAt } from "../calibration.js";
import { announce, facts, field, h, put } from "../dom.js";
import { errorBox, oneIn, percent, waiting } from "../parts.js";
import { Photo } from "../photo.js";
import { photoPicker } from "../picker.js";
import { warnings } from "../quality.js";

const STEPS = 1000;
const UNCALIBRATED_THRESHOLD = 0.4; // where a model has no calibration, something to begin the slider with

export const verifyPage = {
  title: "Verify",
  lead: "Are two photos one person? Decided on the largest face of each, at a false-match rate that you choose.",
  mount(place, api) {
    const page = new Verify(api);
    put(place, page.element);
    return () => page.close();
  },
};

class Verify {
  #api;
  #sides = {};
  #result = h("section", { class: "card result", "aria-label": "Decision" });
  #abort = null;
  #uncalibrated = false;

  constructor(api) {
    this.#api = api;
    for (const [name, title] of [
      ["a", "Photo A"],
      ["b", "Photo B"],
    ])
      this.#sides[name] = new Side(title, () => this.#compare());
    this.element = h(
      "div",
      { class: "verify" },
      h("div", { class: "pair" }, this.#sides.a.element, this.#sides.b.element),
      this.#result,
    );
    put(this.#result, nothingYet());
  }

  close() {
    this.#abort?.abort();
    for (const side of Object.values(this.#sides)) side.leave();
  }

  async #compare() {
    const { a, b } = this.#sides;
    this.#abort?.abort();
    for (const side of [a, b]) side.show(null);
    if (!a.file || !b.file) return put(this.#result, nothingYet(a.file || b.file));
    const mine = (this.#abort = new AbortController());
    put(this.#result, waiting("Comparing"));
    try {
      const answer = await this.#ask(a.file, b.file, mine.signal);
      const model = await this.#api.get(path`/models/${answer.model.id}`, { signal: mine.signal });
      if (!mine.signal.aborted) this.#show(answer, model.calibration);
    } catch (error) {
      if (mine.signal.aborted) return undefined;
      const side = this.#sides[error.details?.image];
      side?.fail(error.message);
      put(this.#result, errorBox(error));
    }
    return undefined;
  }

  async #ask(a, b, signal) {
    const parts = [
      ["image_a", a],
      ["image_b", b],
    ];
    const asked = this.#uncalibrated ? [...parts, ["threshold", String(UNCALIBRATED_THRESHOLD)]] : parts;
    try {
      return await this.#api.call("POST", "/verify", { parts: asked, signal });
    } catch (error) {
      // Without a calibration the server asks for a threshold instead of a rate, and says so.
      if (this.#uncalibrated || error.code !== "invalid_request" || !/calibration/.test(error.message)) throw error;
      this.#uncalibrated = true;
      return this.#ask(a, b, signal);
    }
  }

  #show(answer, calibration) {
    this.#sides.a.show(answer.a);
    this.#sides.b.show(answer.b);
    const picture = anglePicture();
    const verdict = h("div", { class: "verdict" });
    const numbers = h("div");
    let before = null;
    const decide = (threshold, rate) => {
      const matched = answer.similarity >= threshold;
      if (before !== null && before !== matched) announce(matched ? "Now a match." : "Now no match.");
      before = matched;
      picture.set(answer.similarity, threshold);
      put(verdict, ...verdictOf(matched, rate, threshold));
      put(numbers, factsOf(answer, threshold, rate, calibration));
    };
    const slider = calibration ? rateSlider(calibration, answer, decide) : thresholdSlider(answer, decide);
    put(
      this.#result,
      h("h2", { class: "unseen" }, "Decision"),
      verdict,
      h("div", { class: "split" }, picture.box, h("div", { class: "stack" }, slider, numbers)),
    );
    announce(answer.similarity >= answer.threshold ? "They match." : "They do not match.");
  }
}

/** One of the two photos. */
class Side {
  #photo = null;
  #canvas = h("canvas", { role: "img", class: "photo", hidden: true });
  #notes = h("div", { class: "notes" });
  file = null;

  constructor(title, changed) {
    const give = async ([file]) => {
      this.file = file;
      await this.#open(file);
      if (this.file === file) changed();
    };
    const picker = photoPicker({ title, give, stage: this.#canvas });
    this.element = h("section", { class: "card side", "aria-label": title }, h("h2", {}, title), picker, this.#notes);
  }

  async #open(file) {
    this.close();
    put(this.#notes, waiting("Reading the photo"));
    try {
      const photo = await Photo.open(file);
      if (this.file !== file) return photo.close(); // another was given meanwhile
      this.#photo = photo;
      photo.draw(this.#canvas);
      this.#canvas.hidden = false;
      put(this.#notes);
    } catch (error) {
      this.#canvas.hidden = true;
      put(this.#notes, h("p", { class: "notice" }, `${error.message} It is sent all the same.`));
    }
    return undefined;
  }

  /** The face that was compared, with what may be wrong with it. */
  show(face) {
    if (!this.#photo) return;
    this.#photo.draw(this.#canvas, face ? [{ face }] : []);
    put(
      this.#notes,
      face && [
        h("p", { class: "hint" }, `Quality ${face.quality.toFixed(2)}, detection ${face.det_score.toFixed(2)}`),
        ...warnings(face).map((text) => h("p", { class: "notice" }, text)),
      ],
    );
  }

  fail(text) {
    put(this.#notes, h("p", { class: "notice bad" }, text.replace(/^[ab]: /, "")));
  }

  close() {
    this.#photo?.close();
    this.#photo = null;
  }

  leave() {
    this.file = null;
    this.close();
  }
}

function nothingYet(one = null) {
  return h(
    "p",
    { class: "placeholder" },
    one
      ? "One more photo, and they are compared."
      : "Give two photos: the decision, and the angle between the two embeddings, will be here.",
  );
}

function verdictOf(matched, rate, threshold) {
  const grounds =
    rate === null ? `at a threshold of ${threshold.toFixed(3)}` : `at a false-match rate of ${oneIn(rate)}`;
  return [
    h(
      "p",
      { class: `badge ${matched ? "good" : "bad"}` },
      h("span", { "aria-hidden": "true" }, matched ? "✓ " : "✕ "),
      matched ? "Match" : "No match",
    ),
    h("p", {}, matched ? "Taken for one person " : "Not taken for one person ", grounds, "."),
  ];
}

function factsOf(answer, threshold, rate, calibration) {
  const alike = calibration && rateOf(calibration, answer.similarity);
  return facts([
    ["Angle", `${answer.angle_degrees.toFixed(1)}° (threshold ${degrees(threshold).toFixed(1)}°)`],
    ["Similarity", `${answer.similarity.toFixed(3)} (threshold ${threshold.toFixed(3)})`],
    [
      "Probability of one person",
      calibration
        ? h(
            "span",
            {},
            percent(probability(calibration, answer.similarity)),
            h("span", { class: "hint" }, " at equal prior odds"),
          )
        : "the model has no calibration",
    ],
    calibration && ["Strangers this alike", strangers(alike, calibration.impostor_pairs)],
    calibration &&
      rate !== null && ["Pairs of one person found", `${percent(tarAt(calibration, rate))} on the calibration's data`],
    ["Model", answer.model.id],
  ]);
}

/** Not beyond what was compared: a tail fitted to 45 million pairs says little of the billionth. */
function strangers({ rate, bound }, compared) {
  if (bound === "above") return `more than ${oneIn(rate)} pairs`;
  if (bound === "below") return `fewer than ${oneIn(rate)} pairs`;
  if (rate < 1 / compared) return `fewer than 1 in the ${compared.toLocaleString("en")} pairs that were compared`;
  return `about ${oneIn(roughly(rate))} pairs${bound === "fitted" ? ", by the fitted tail" : ""}`;
}

/** Two digits of one in how many. */
function roughly(rate) {
  return 1 / Number((1 / rate).toPrecision(2));
}

/** False-match rate on a logarithmic scale, lax on the left. */
function rateSlider(calibration, answer, decide) {
  const [low, high] = fmrRange(calibration).map(Math.log10);
  const rateAt = (step) => 10 ** (high + (step / STEPS) * (low - high));
  const first = Math.log10(Math.min(Math.max(answer.target_fmr ?? 10 ** high, 10 ** low), 10 ** high));
  const input = h("input", {
    type: "range",
    min: "0",
    max: String(STEPS),
    step: "1",
    value: String(Math.round(((first - high) / (low - high)) * STEPS)),
  });
  const shown = h("output", {});
  const move = (rate, threshold) => {
    put(shown, oneIn(rate));
    input.setAttribute("aria-valuetext", `${oneIn(rate)} pairs of strangers`);
    decide(threshold, rate);
  };
  input.addEventListener("input", () =>
    move(rateAt(input.valueAsNumber), thresholdAt(calibration, rateAt(input.valueAsNumber))),
  );
  move(answer.target_fmr, answer.threshold); // the server's own words first
  const [lax, strict] = fmrRange(calibration).reverse().map(oneIn);
  return h(
    "div",
    { class: "slider" },
    field(h("span", { class: "slider-label" }, "False-match rate ", shown), input),
    h(
      "div",
      { class: "ends", "aria-hidden": "true" },
      h("span", {}, `${lax}, lax`),
      h("span", {}, `strict, ${strict}`),
    ),
  );
}

function thresholdSlider(answer, decide) {
  const input = h("input", { type: "range", min: "-1", max: "1", step: "0.005", value: String(answer.threshold) });
  const shown = h("output", {});
  const move = () => {
    put(shown, input.valueAsNumber.toFixed(3));
    decide(input.valueAsNumber, null);
  };
  input.addEventListener("input", move);
  move();
  return h(
    "div",
    { class: "slider" },
    field(
      h("span", { class: "slider-label" }, "Threshold ", shown),
      input,
      "This model has no calibration: what a threshold means in rates is not known.",
    ),
  );
}

/** Collections: made, chosen, erased. What is in one is in collection.js. */

import { path } from "../api.js";
import { announce, check, field, h, put } from "../dom.js";
import { confirmed, count, doing, empty, errorBox, openDialog, showReceipt, waiting } from "../parts.js";
import { CollectionView } from "./collection.js";

export const peoplePage = {
  title: "People",
  lead: "Collections of enrolled people. Photos are not kept; an aligned crop only where a collection says so.",
  mount(place, api) {
    const page = new People(api);
    put(place, page.element);
    page.load();
  },
};

class People {
  #api;
  #chosen = null;
  #list = h("ul", { class: "choices" });
  #view = h("div", { class: "stack" });
  #problem = h("div");

  constructor(api) {
    this.#api = api;
    const create = h(
      "button",
      { type: "button", class: "primary", on: { click: () => this.#create() } },
      "New collection",
    );
    this.element = h(
      "div",
      { class: "split narrow-first" },
      h(
        "section",
        { class: "card", "aria-label": "Collections" },
        h("div", { class: "row between" }, h("h2", {}, "Collections"), create),
        this.#problem,
        this.#list,
      ),
      this.#view,
    );
  }

  async load() {
    put(this.#problem, this.#list.children.length ? null : waiting("Reading the collections"));
    try {
      const { collections } = await this.#api.get("/collections");
      put(this.#problem);
      this.#showList(collections);
    } catch (error) {
      put(this.#problem, errorBox(error));
    }
  }

  #showList(collections) {
    if (!collections.some(({ name }) => name === this.#chosen)) this.#chosen = collections[0]?.name ?? null;
    put(
      this.#list,
      collections.map((each) => h("li", {}, this.#choice(each))),
    );
    if (collections.length === 0)
      put(
        this.#view,
        h(
          "section",
          { class: "card" },
          empty("No collection yet", "A collection is a gallery of people for one purpose. Make the first one."),
        ),
      );
    else this.#showCollection(collections.find(({ name }) => name === this.#chosen));
  }

  /** At once, from what is known of it: between two collections nobody may enrol into the one before. */
  #choose(collection) {
    this.#chosen = collection.name;
    for (const button of this.#list.querySelectorAll("button"))
      button.setAttribute("aria-pressed", String(button.dataset.name === collection.name));
    this.#showCollection(collection);
  }

  #choice(collection) {
    const { name, purpose, subjects, faces } = collection;
    return h(
      "button",
      {
        type: "button",
        class: "choice",
        "aria-pressed": String(name === this.#chosen),
        data: { name },
        on: { click: () => this.#choose(collection) },
      },
      h("span", { class: "choice-name" }, name),
      h("span", { class: "hint" }, `${count(subjects, "person", "people")}, ${count(faces, "face")}`),
      h("span", { class: "hint" }, purpose),
    );
  }

  #showCollection(collection) {
    const view = new CollectionView(this.#api, collection, {
      changed: () => this.#count(),
      erase: () => this.#erase(collection),
    });
    put(this.#view, view.element);
    view.load();
  }

  /** New numbers in the list; the collection that is being worked on stays as it is. */
  async #count() {
    try {
      const { collections } = await this.#api.get("/collections");
      put(
        this.#list,
        collections.map((each) => h("li", {}, this.#choice(each))),
      );
    } catch (error) {
      put(this.#problem, errorBox(error));
    }
  }

  #erase({ name, subjects, faces }) {
    const text = `${name} is erased with ${count(subjects, "person", "people")} and ${count(faces, "face")}, and with the key that they are encrypted with. Nothing brings them back.`;
    confirmed(
      `Erase the collection ${name}?`,
      text,
      "Erase collection",
      async () => {
        const receipt = await this.#api.call("DELETE", path`/collections/${name}`);
        await this.load();
        showReceipt(receipt);
      },
      name,
    );
  }

  #create() {
    const name = h("input", {
      type: "text",
      required: true,
      autocomplete: "off",
      spellcheck: "false",
      pattern: "[A-Za-z0-9][A-Za-z0-9._\\-]{0,63}",
      title: "Letters, digits, dot, underscore and hyphen",
    });
    const purpose = h("input", { type: "text", required: true, autocomplete: "off" });
    const days = h("input", { type: "number", min: "1", step: "1" });
    const crops = h("input", { type: "checkbox" });
    const consent = h("input", { type: "checkbox" });
    const place = h("div");
    const go = h("button", { type: "submit", class: "primary" }, "Create");
    const form = h(
      "form",
      { class: "stack" },
      field("Name", name, "Letters, digits, dot, underscore and hyphen."),
      field("Purpose", purpose, "What these people are kept for, as you would tell them."),
      field("Erase faces after days", days, "Left empty, they stay until somebody erases them."),
      check("Keep aligned crops, so that a later model can embed them anew", crops),
      check("Enrol nobody without a consent reference", consent),
      place,
      h("div", { class: "row end" }, go),
    );
    const dialog = openDialog("New collection", form);
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      const json = {
        purpose: purpose.value,
        retention_days: days.value ? days.valueAsNumber : null,
        store_crops: crops.checked,
        require_consent: consent.checked,
      };
      const done = await doing(go, place, async () => {
        await this.#refuseExisting(name.value);
        this.#choose(await this.#api.call("PUT", path`/collections/${name.value}`, { json }));
      });
      if (!done) return;
      dialog.close();
      announce(`Created ${name.value}.`);
      this.#count();
    });
  }

  /** PUT would change the settings of one that is there, which nobody means who asks for a new one. */
  async #refuseExisting(name) {
    const { collections } = await this.#api.get("/collections");
    if (collections.some((each) => each.name === name))
      throw Object.assign(new Error(`There is a collection ${name} already.`), { code: "already_exists" });
  }
}

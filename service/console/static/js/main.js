/** The console: which page is shown, whether a key is needed, light or dark. */

import { Api } from "./api.js";
import { announce, field, h, put } from "./dom.js";
import { identifyPage } from "./pages/identify.js";
import { modelsPage } from "./pages/models.js";
import { peoplePage } from "./pages/people.js";
import { systemPage } from "./pages/system.js";
import { verifyPage } from "./pages/verify.js";
import { doing, errorBox, waiting } from "./parts.js";

/** Each page mounts itself into an element, and gives back what is to be done when it is left. */
const PAGES = {
  verify: verifyPage,
  people: peoplePage,
  identify: identifyPage,
  models: modelsPage,
  system: systemPage,
};
const THEMES = ["auto", "light", "dark"];

const api = new Api();
const main = document.getElementById("main");
const tabs = document.getElementById("tabs");
const leave = document.getElementById("leave");
let cleanUp = () => {};

function showPage() {
  const name = location.hash.replace(/^#\//, "");
  if (!Object.hasOwn(PAGES, name)) {
    location.replace("#/verify");
    return;
  }
  const page = PAGES[name];
  cleanUp();
  const place = h("div", { class: `page page-${name}` });
  const heading = h("h1", { tabindex: "-1" }, page.title);
  put(main, h("div", { class: "page-head" }, heading, h("p", {}, page.lead)), place);
  document.title = `${page.title} · Facesphere`;
  for (const link of tabs.children) link.toggleAttribute("aria-current", link.dataset.page === name);
  tabs.querySelector("[aria-current]")?.setAttribute("aria-current", "page");
  cleanUp = page.mount(place, api) ?? (() => {});
}

/** After a click on a tab the focus goes to the new page; at the first load it stays where the browser has it. */
function follow() {
  if (tabs.hidden || !location.hash.startsWith("#/")) return;
  showPage();
  main.querySelector("h1")?.focus({ preventScroll: true });
  window.scrollTo(0, 0);
}

function showSignIn(problem = null) {
  cleanUp();
  cleanUp = () => {};
  api.forget();
  api.onRefused = () => {}; // the form says itself that a key is refused
  tabs.hidden = leave.hidden = true;
  document.title = "Sign in · Facesphere";
  const input = h("input", { type: "password", autocomplete: "off", spellcheck: "false", required: true });
  const button = h("button", { type: "submit", class: "primary" }, "Sign in");
  const place = h("div", {}, problem);
  const form = h(
    "form",
    { class: "stack" },
    field("API key", input, "Kept in the memory of this page only: closing or reloading it signs you out."),
    place,
    button,
  );
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    await doing(button, place, async () => {
      api.use(input.value.trim());
      await api.get("/models"); // every scope may
      enter();
      main.querySelector("h1")?.focus({ preventScroll: true }); // what had the focus is gone
    });
  });
  put(
    main,
    h(
      "div",
      { class: "sign-in card" },
      h("h1", {}, "Sign in"),
      h(
        "p",
        {},
        "This server asks for a key. ",
        h("code", {}, "facesphere keys create"),
        " makes one; what it may do decides what you see here.",
      ),
      form,
    ),
  );
  input.focus();
}

function enter() {
  api.onRefused = refused;
  tabs.hidden = false;
  leave.hidden = !api.hasKey;
  showPage();
}

/** What was good until now is no more. */
function refused() {
  const text = api.hasKey
    ? "The server no longer takes this key. It may have been revoked, or have expired."
    : "The server asks for a key from now on.";
  showSignIn(errorBox(Object.assign(new Error(text), { code: "unauthenticated" })));
}

async function begin() {
  put(main, waiting("Asking the server"));
  try {
    await api.get("/models");
    enter();
  } catch (error) {
    if (error.status === 401) showSignIn();
    else put(main, errorBox(error), h("p", {}, h("button", { type: "button", on: { click: begin } }, "Try again")));
  }
}

function chooseTheme(name) {
  document.documentElement.dataset.theme = name;
  const button = document.getElementById("theme");
  put(
    button,
    h("span", { "aria-hidden": "true", class: `theme-icon theme-${name}` }),
    h("span", {}, name[0].toUpperCase() + name.slice(1)),
  );
  button.setAttribute("aria-label", `Colours: ${name}`);
}

for (const [name, page] of Object.entries(PAGES)) {
  tabs.append(
    h(
      "a",
      { href: `#/${name}`, data: { page: name } },
      h("span", { class: `tab-icon icon-${name}`, "aria-hidden": "true" }),
      page.title,
    ),
  );
}
document.getElementById("theme").addEventListener("click", () => {
  const next = THEMES[(THEMES.indexOf(document.documentElement.dataset.theme) + 1) % THEMES.length];
  chooseTheme(next);
  announce(`Colours: ${next}`);
});
document.getElementById("skip").addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});
leave.addEventListener("click", () => showSignIn());
window.addEventListener("hashchange", follow);
// A photo dropped beside its place would otherwise replace the page.
for (const event of ["dragover", "drop"]) window.addEventListener(event, (each) => each.preventDefault());
chooseTheme("auto");
begin();

/** What several pages are made of: errors, dialogs, receipts, numbers as text. */

import { announce, facts, freshId, h } from "./dom.js";

/** An error in the server's own words, with the id under which its log has it. */
export function errorBox(error) {
  const extra = [["Code", h("code", {}, error.code ?? error.name)]];
  if (error.requestId) extra.push(["Request", h("code", {}, error.requestId)]);
  if (error.retryAfter) extra.push(["Try again in", `${error.retryAfter} s`]);
  return h("div", { class: "error", role: "alert" }, h("p", {}, error.message), facts(extra, "inline"));
}

/** A line that says that something is being waited for. */
export function waiting(text) {
  return h("p", { class: "waiting", role: "status" }, h("span", { class: "spinner", "aria-hidden": "true" }), text);
}

/** What stands where there is nothing yet. */
export function empty(title, text) {
  return h("div", { class: "empty" }, h("p", { class: "empty-title" }, title), h("p", {}, text));
}

/** Run something while a button is out of use; an error goes into `place`. Whether it went well. */
export async function doing(button, place, action) {
  button.disabled = true;
  button.setAttribute("aria-busy", "true");
  place.replaceChildren();
  try {
    await action();
    return true;
  } catch (error) {
    place.replaceChildren(errorBox(error));
    return false;
  } finally {
    button.disabled = false;
    button.removeAttribute("aria-busy");
  }
}

/** A modal dialog; it is removed when it is closed. */
export function openDialog(title, ...content) {
  const heading = h("h2", { id: freshId("dialog") }, title);
  const close = h(
    "button",
    { type: "button", class: "quiet", "aria-label": "Close", on: { click: () => dialog.close() } },
    "✕",
  );
  const leave = () => {
    dialog.remove();
    // Whatever opened it may be gone, as a person is who was erased.
    if (document.activeElement === document.body) document.querySelector("h1")?.focus({ preventScroll: true });
  };
  const dialog = h(
    "dialog",
    { "aria-labelledby": heading.id, on: { close: leave } },
    h("div", { class: "dialog-head" }, heading, close),
    content,
  );
  document.body.append(dialog);
  dialog.showModal();
  return dialog;
}

/** Ask before something that cannot be undone. With `typed`, that text has to be written first. */
export function confirmed(title, text, verb, action, typed = null) {
  const place = h("div");
  const go = h("button", { type: "submit", class: "danger", disabled: typed !== null }, verb);
  const input =
    typed === null ? null : h("input", { type: "text", autocomplete: "off", spellcheck: "false", id: "typed" });
  input?.addEventListener("input", () => (go.disabled = input.value !== typed));
  const form = h(
    "form",
    { class: "stack" },
    h("p", {}, text),
    input && h("div", { class: "field" }, h("label", { for: "typed" }, `To go on, type ${typed}`), input),
    place,
    h("div", { class: "row end" }, h("button", { type: "button", on: { click: () => dialog.close() } }, "Keep"), go),
  );
  const dialog = openDialog(title, form);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (await doing(go, place, action)) dialog.close();
  });
}

/** An erasure receipt, to read and to keep. */
export function showReceipt(receipt) {
  const text = JSON.stringify(receipt, null, 2);
  const name = ["receipt", receipt.collection, receipt.subject, receipt.erased_at.slice(0, 10)]
    .filter(Boolean)
    .join("-");
  const link = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  const dialog = openDialog(
    "Erased",
    h("p", {}, "What was erased is gone from the records and from search. The server signed this receipt; keep it."),
    facts([
      ["Collection", receipt.collection],
      ["Person", receipt.subject ?? "all people of the collection"],
      ["Faces", String(receipt.face_ids.length)],
      ["At", when(receipt.erased_at)],
      ["Signature", h("code", { class: "wrap" }, receipt.signature)],
      ["Key of the server", h("code", { class: "wrap" }, receipt.public_key)],
    ]),
    h("p", { class: "hint" }, "Check it with: ", h("code", {}, "facesphere audit verify-receipt FILE")),
    h(
      "div",
      { class: "row end" },
      h(
        "a",
        { class: "button primary", href: link, download: `${name.replace(/[^\w.-]+/g, "_")}.json` },
        "Download receipt",
      ),
    ),
  );
  dialog.addEventListener("close", () => URL.revokeObjectURL(link));
  announce(`Erased ${receipt.subject ?? receipt.collection}. The receipt is shown.`);
}

/** A rate as people say it. */
export function oneIn(rate) {
  if (rate >= 0.5) return "more than every second";
  return `1 in ${Math.round(1 / rate).toLocaleString("en")}`;
}

/** A probability, with no more nines than it can vouch for. */
export function percent(value) {
  if (value === null || value === undefined) return "—";
  if (value > 0.9999) return "> 99.99 %";
  if (value < 0.0001) return "< 0.01 %";
  return `${(100 * value).toFixed(value > 0.99 || value < 0.01 ? 2 : 1)} %`;
}

/** A time of the server in the words of this machine. */
export function when(text) {
  const time = new Date(text);
  return h(
    "time",
    { datetime: text },
    Number.isNaN(time.valueOf()) ? text : time.toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "short" }),
  );
}

/** A count with its noun. */
export function count(number, one, many = `${one}s`) {
  return `${number.toLocaleString("en")} ${number === 1 ? one : many}`;
}

/** 0..1 as a bar, with the number beside it. */
export function meter(value, label) {
  const bar = h("meter", {
    min: "0",
    max: "1",
    low: "0.4",
    high: "0.6",
    optimum: "1",
    value: String(value),
    "aria-label": label,
  });
  return h("span", { class: "meter" }, bar, h("span", {}, value.toFixed(2)));
}

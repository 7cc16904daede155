/** Where photos come from: dropped, chosen, pasted or taken. */

import { takePhoto } from "./camera.js";
import { freshId, h } from "./dom.js";

// What the server decodes; a browser shows more, and would only be refused later.
const ACCEPTED = "image/jpeg,image/png,image/webp,image/bmp";

/**
 * A place to give photos to. `give` is called with a list of files; whatever it shows goes into `stage`, which stands
 * in the same box, so that a photo can be dropped upon the one before.
 */
export function photoPicker({ title, several = false, give, stage = null }) {
  const input = h("input", {
    type: "file",
    accept: ACCEPTED,
    multiple: several,
    class: "unseen",
    id: freshId("photo"),
  });
  const note = h("p", { class: "hint", role: "status" });
  const camera = h("button", { type: "button", "aria-label": `Camera: ${title}` }, "Camera");
  const zone = h(
    "div",
    { class: "drop", role: "group", "aria-label": title },
    stage,
    h(
      "p",
      { class: "drop-text" },
      several ? "Drop photos here" : "Drop a photo here",
      h("span", { class: "hint" }, " JPEG, PNG, WebP or BMP"),
    ),
    h(
      "div",
      { class: "row centre" },
      input,
      h(
        "label",
        { for: input.id, class: "button" },
        several ? "Choose photos" : "Choose photo",
        h("span", { class: "unseen" }, `: ${title}`),
      ),
      camera,
    ),
    note,
  );
  const offer = (files) => {
    // Whatever it is, it is given on: the server says what is wrong with a file, where nobody would.
    const taken = several ? [...files] : [...files].slice(0, 1);
    note.textContent = files.length > taken.length ? `Only the first of ${files.length} files was taken.` : "";
    if (taken.length > 0) give(taken);
  };
  input.addEventListener("change", () => {
    offer(input.files);
    input.value = ""; // the same file may be chosen again
  });
  camera.addEventListener("click", () => takePhoto((file) => offer([file])));
  listenForDrops(zone, offer);
  return zone;
}

function listenForDrops(zone, offer) {
  let inside = 0; // dragenter comes for each child too
  const leave = (by) => {
    inside = Math.max(inside - by, 0);
    zone.classList.toggle("over", inside > 0);
  };
  zone.addEventListener("dragenter", (event) => {
    event.preventDefault();
    leave(-1);
  });
  zone.addEventListener("dragover", (event) => event.preventDefault());
  zone.addEventListener("dragleave", () => leave(1));
  zone.addEventListener("drop", (event) => {
    event.preventDefault();
    leave(Infinity);
    offer(event.dataTransfer.files);
  });
}

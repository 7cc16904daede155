/** A photo from the camera. The picture stays in this page until it is sent as any other photo is. */

import { h } from "./dom.js";
import { errorBox, openDialog } from "./parts.js";

const WISHED = { video: { facingMode: "user", width: { ideal: 1280 }, height: { ideal: 960 } }, audio: false };

/** Open the camera; `give` gets the photo as a JPEG file if one is taken. */
export async function takePhoto(give) {
  const video = h("video", { playsinline: true, muted: true, "aria-label": "Picture of the camera" });
  const take = h("button", { type: "button", class: "primary", disabled: true }, "Take photo");
  const stage = h("div", { class: "stack" }, video, h("div", { class: "row centre" }, take));
  const dialog = openDialog("Camera", stage);
  let stream = null;
  const stop = () => stream?.getTracks().forEach((track) => track.stop());
  dialog.addEventListener("close", stop);
  try {
    stream = await open();
    if (!dialog.open) return stop(); // closed while the browser was asking
    video.muted = true;
    video.srcObject = stream;
    await video.play();
  } catch (error) {
    stage.replaceChildren(errorBox(explained(error)));
    return undefined;
  }
  take.disabled = false;
  take.focus();
  take.addEventListener("click", async () => {
    const file = await still(video);
    dialog.close();
    give(file);
  });
  return undefined;
}

function open() {
  if (!navigator.mediaDevices) {
    throw Object.assign(
      new Error("Browsers give the camera to pages over https or on this machine's own address only."),
      { name: "insecure_page" },
    );
  }
  return navigator.mediaDevices.getUserMedia(WISHED);
}

function explained(error) {
  const known = {
    NotAllowedError: "The camera was not allowed for this page.",
    NotFoundError: "No camera was found.",
    NotReadableError: "The camera is in use by another program.",
  };
  return Object.assign(new Error(known[error.name] ?? error.message), { name: error.name });
}

async function still(video) {
  const canvas = h("canvas", { width: video.videoWidth, height: video.videoHeight });
  canvas.getContext("2d").drawImage(video, 0, 0);
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.95));
  return new File([blob], "camera.jpg", { type: "image/jpeg" });
}

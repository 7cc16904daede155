/**
 * A photo of this machine on a canvas, with faces drawn over it. The file is sent as it is; what is drawn is decoded off
 * the page's thread, at the size that is shown, so that sixty megapixels do not stop the page.
 */

const LONGEST_SIDE = 1600;
const LANDMARKS = ["eye", "eye", "nose", "mouth corner", "mouth corner"];

/** A photo that can be drawn. `width` and `height` are those of the upright image, in which the API counts. */
export class Photo {
  static async open(file) {
    const [width, height] = await sizeOf(file);
    const scale = Math.min(1, LONGEST_SIDE / Math.max(width, height));
    const resize = {
      resizeWidth: Math.max(1, Math.round(width * scale)),
      resizeHeight: Math.max(1, Math.round(height * scale)),
    };
    const bitmap = await createImageBitmap(file, { ...resize, resizeQuality: "medium" });
    return new Photo(file, bitmap, width, height);
  }

  constructor(file, bitmap, width, height) {
    Object.assign(this, { file, bitmap, width, height });
    this.scale = bitmap.width / width;
  }

  /** Draw it, and over it faces: [{face, label, tone}]; tone is "plain", "known" or "unknown". */
  draw(canvas, marks = []) {
    canvas.width = this.bitmap.width;
    canvas.height = this.bitmap.height;
    const context = canvas.getContext("2d");
    context.drawImage(this.bitmap, 0, 0);
    const unit = Math.max(canvas.width, canvas.height) / 100;
    for (const mark of [...marks].reverse()) drawMark(context, mark, this.scale, unit);
    canvas.setAttribute("aria-label", described(this.file.name, marks));
  }

  /** A square around one face. */
  drawFace(canvas, face, side = 96) {
    const [x1, y1, x2, y2] = face.bbox.map((value) => value * this.scale);
    const size = Math.max(x2 - x1, y2 - y1) * 1.3;
    canvas.width = canvas.height = side;
    const [left, top] = [(x1 + x2 - size) / 2, (y1 + y2 - size) / 2];
    canvas.getContext("2d").drawImage(this.bitmap, left, top, size, size, 0, 0, side, side);
  }

  close() {
    this.bitmap.close();
  }
}

/** Width and height with the EXIF orientation applied; only the file's header is read for this. */
async function sizeOf(file) {
  const url = URL.createObjectURL(file);
  const image = new Image();
  try {
    await new Promise((resolve, reject) => {
      image.onload = resolve;
      image.onerror = () => reject(new Error(`This browser cannot show ${file.name}.`));
      image.src = url;
    });
    return [image.naturalWidth, image.naturalHeight];
  } finally {
    URL.revokeObjectURL(url);
  }
}

const TONES = { plain: "#58e0a6", known: "#58e0a6", unknown: "#ffc861" };

function drawMark(context, { face, label = null, tone = "plain", rank = null }, scale, unit) {
  const [x1, y1, x2, y2] = face.bbox.map((value) => value * scale);
  // Drawn twice, dark under bright: to be seen on any photo.
  for (const [colour, width] of [
    ["rgb(0 0 0 / 60%)", 0.95],
    [TONES[tone], 0.55],
  ]) {
    context.strokeStyle = colour;
    context.lineWidth = width * unit;
    context.setLineDash(tone === "unknown" ? [1.6 * unit, 1.1 * unit] : []);
    context.beginPath();
    context.roundRect(x1, y1, x2 - x1, y2 - y1, unit);
    context.stroke();
  }
  context.setLineDash([]);
  for (const [x, y] of face.kps) dot(context, x * scale, y * scale, Math.min(0.6 * unit, (x2 - x1) / 24), TONES[tone]);
  const text = [rank, label].filter((part) => part !== null).join("  ");
  if (text) tag(context, text, x1, y1, y2, unit, TONES[tone]);
}

function dot(context, x, y, radius, colour) {
  context.beginPath();
  context.arc(x, y, radius, 0, 2 * Math.PI);
  context.fillStyle = colour;
  context.fill();
  context.lineWidth = radius / 2;
  context.strokeStyle = "rgb(0 0 0 / 65%)";
  context.stroke();
}

function tag(context, text, x1, y1, y2, unit, colour) {
  const size = 2.7 * unit;
  context.font = `600 ${size}px system-ui, sans-serif`;
  const width = context.measureText(text).width + 1.8 * unit;
  const height = size + 1.5 * unit;
  const left = Math.max(0, Math.min(x1, context.canvas.width - width));
  const top =
    y1 - height - 0.6 * unit >= 0
      ? y1 - height - 0.6 * unit
      : Math.min(y2 + 0.6 * unit, context.canvas.height - height);
  context.fillStyle = "rgb(10 16 24 / 85%)";
  context.beginPath();
  context.roundRect(left, top, width, height, 0.8 * unit);
  context.fill();
  context.fillStyle = colour;
  context.textBaseline = "middle";
  context.fillText(text, left + 0.9 * unit, top + height / 2);
}

function described(name, marks) {
  if (marks.length === 0) return `Photo ${name}`;
  const each = marks.map(
    ({ label, face }) => label ?? `a face, quality ${face.quality.toFixed(2)}, with its ${LANDMARKS.length} landmarks`,
  );
  return `Photo ${name}. Marked: ${each.join("; ")}.`;
}

/** What may be wrong with a photo, from what the API says of its face; the formulas are those of the server's quality. */

const FULL_EYE_DISTANCE = 35;
const LOW_QUALITY = 0.5;
const LOW_POSE = 0.5;
const LOW_DETECTION = 0.7;

/** Warnings about a face, as sentences; none is good news. */
export function warnings(face) {
  const found = [];
  const eyes = eyeDistance(face.kps);
  if (eyes < FULL_EYE_DISTANCE)
    found.push(`The face is small: ${Math.round(eyes)} pixels between the eyes, ${FULL_EYE_DISTANCE} are wanted.`);
  const { yaw, pitch } = pose(face.kps);
  if (yaw < LOW_POSE) found.push("The head is turned far to a side.");
  if (pitch < LOW_POSE) found.push("The head is tilted far up or down.");
  if (face.det_score < LOW_DETECTION)
    found.push(`The detector is not sure that this is a face (${face.det_score.toFixed(2)}).`);
  if (face.quality < LOW_QUALITY)
    found.push(`Quality is low (${face.quality.toFixed(2)}): blurred, dark, small or turned away.`);
  return found;
}

/** Pixels between the eyes. */
export function eyeDistance([[ax, ay], [bx, by]]) {
  return Math.hypot(bx - ax, by - ay);
}

/** 1 for a frontal face, 0 for one that is turned or tilted by as much as landmarks can tell. */
export function pose(kps) {
  const distance = eyeDistance(kps);
  if (distance < 1e-6) return { yaw: 0, pitch: 0 };
  const [nose, left, right] = [kps[2], kps[3], kps[4]].map((point) => level(point, kps, distance));
  const halfHeight = Math.max((left.y + right.y) / 4, 1e-6);
  return {
    yaw: 1 - Math.min(Math.abs(nose.x) / (distance / 2), 1),
    pitch: 1 - Math.min(Math.abs(nose.y - halfHeight) / halfHeight, 1),
  };
}

/** A point with the roll of the head turned out, from the middle between the eyes. */
function level([x, y], [[ax, ay], [bx, by]], distance) {
  const [cos, sin] = [(bx - ax) / distance, (by - ay) / distance];
  const [dx, dy] = [x - (ax + bx) / 2, y - (ay + by) / 2];
  return { x: dx * cos + dy * sin, y: dy * cos - dx * sin };
}

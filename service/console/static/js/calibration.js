/**
 * A cosine into a decision, as models/calibration.py does it; a test holds the two against each other. `calibration` is
 * that of GET /models/{model_id}: points go from lax to strict.
 */

/** Smallest and largest false-match rate that was measured. */
export function fmrRange(calibration) {
  return [calibration.points.at(-1).fmr, calibration.points[0].fmr];
}

/** Threshold for a false-match rate within the range, interpolated over log10 of the rate. */
export function thresholdAt(calibration, fmr) {
  return along(
    calibration.points,
    Math.log10(fmr),
    (point) => Math.log10(point.fmr),
    (point) => point.threshold,
  );
}

/** Share of genuine pairs that match at a rate, as measured. */
export function tarAt(calibration, fmr) {
  return along(
    calibration.points,
    Math.log10(fmr),
    (point) => Math.log10(point.fmr),
    (point) => point.tar,
  );
}

/**
 * How often strangers are this alike: {rate, bound}. `bound` is "above" under the measured range (the rate is then the
 * largest measured), "fitted" where it comes from the tail, "below" where there is none, "measured" else.
 */
export function rateOf(calibration, cosine) {
  const { points, tail } = calibration;
  const strictest = points.at(-1);
  if (cosine < points[0].threshold) return { rate: points[0].fmr, bound: "above" };
  if (cosine <= strictest.threshold) {
    const log = along(
      points,
      cosine,
      (point) => point.threshold,
      (point) => Math.log10(point.fmr),
    );
    return { rate: 10 ** log, bound: "measured" };
  }
  if (!tail) return { rate: strictest.fmr, bound: "below" };
  return { rate: Math.min(tailRate(tail, cosine), strictest.fmr), bound: "fitted" };
}

/** P(same person) at equal prior odds. */
export function probability(calibration, cosine) {
  const { slope, intercept } = calibration.logistic;
  return 1 / (1 + Math.exp(-(slope * cosine + intercept)));
}

/** Angle between unit vectors of that cosine. */
export function degrees(cosine) {
  return (Math.acos(Math.max(-1, Math.min(1, cosine))) * 180) / Math.PI;
}

function tailRate({ fmr, threshold, scale, shape }, cosine) {
  const excess = (cosine - threshold) / scale;
  if (Math.abs(shape) < 1e-9) return fmr * Math.exp(-excess);
  return fmr * Math.max(1 + shape * excess, 0) ** (-1 / shape);
}

function along(points, at, xOf, yOf) {
  const rising = xOf(points[0]) < xOf(points.at(-1)) ? points : [...points].reverse();
  const after = rising.findIndex((point) => xOf(point) >= at);
  if (after === 0) return yOf(rising[0]);
  if (after < 0) return yOf(rising.at(-1));
  const [left, right] = [rising[after - 1], rising[after]];
  const share = (at - xOf(left)) / (xOf(right) - xOf(left));
  return yOf(left) + share * (yOf(right) - yOf(left));
}

/** The Prometheus text format, as far as this server speaks it. */

const LINE = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})?\s+(\S+)/;
const LABEL = /([a-zA-Z_]\w*)="((?:[^"\\]|\\.)*)"/g;

/** Samples by name: Map of name to [{labels, value}]. */
export function parse(text) {
  const samples = new Map();
  for (const line of text.split("\n")) {
    const match = line.startsWith("#") ? null : LINE.exec(line);
    if (match === null) continue;
    const [, name, inner, value] = match;
    const labels = Object.fromEntries(
      [...(inner ?? "").matchAll(LABEL)].map(([, key, quoted]) => [key, unescape(quoted)]),
    );
    if (!samples.has(name)) samples.set(name, []);
    samples.get(name).push({ labels, value: number(value) });
  }
  return samples;
}

/** Sum of the samples of a name whose labels are these. */
export function total(samples, name, wanted = {}) {
  const those = samples.get(name) ?? [];
  return those.filter(({ labels }) => matches(labels, wanted)).reduce((sum, { value }) => sum + value, 0);
}

/** A histogram: [[upper bound, count in the bucket]], rising, of the samples whose labels are these. */
export function buckets(samples, name, wanted = {}) {
  const cumulative = new Map();
  for (const { labels, value } of samples.get(`${name}_bucket`) ?? []) {
    if (matches(labels, wanted)) cumulative.set(number(labels.le), (cumulative.get(number(labels.le)) ?? 0) + value);
  }
  const rising = [...cumulative].sort(([a], [b]) => a - b);
  return rising.map(([bound, upTo], index) => [bound, upTo - (index ? rising[index - 1][1] : 0)]);
}

/** A quantile of a histogram, straight lines within buckets; null without observations. */
export function quantile(histogram, share) {
  const all = histogram.reduce((sum, [, inside]) => sum + inside, 0);
  if (all === 0) return null;
  let [before, low] = [0, 0];
  for (const [bound, inside] of histogram) {
    if (before + inside >= share * all && inside > 0) {
      return Number.isFinite(bound) ? low + ((share * all - before) / inside) * (bound - low) : low;
    }
    [before, low] = [before + inside, bound];
  }
  return low;
}

/** What came to a histogram since an earlier look at it. */
export function since(now, earlier) {
  const before = new Map(earlier);
  return now.map(([bound, inside]) => [bound, Math.max(inside - (before.get(bound) ?? 0), 0)]);
}

function matches(labels, wanted) {
  return Object.entries(wanted).every(([name, value]) => labels[name] === value);
}

function number(text) {
  return text === "+Inf" ? Infinity : text === "-Inf" ? -Infinity : Number(text);
}

function unescape(text) {
  return text.replace(/\\(.)/g, (_, letter) => (letter === "n" ? "\n" : letter));
}

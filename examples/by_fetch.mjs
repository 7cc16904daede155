// The API by fetch, as in a browser or in Node 20 and later.
//
//     node examples/by_fetch.mjs A.jpg B.jpg http://127.0.0.1:8000
//
// Two photos of one person. A page of another origin is refused by a server without a key.
import { readFile } from "node:fs/promises";

const [, , fileA, fileB, server = "http://127.0.0.1:8000"] = process.argv;
const key = process.env.FACESPHERE_API_KEY;

class FacesphereError extends Error {
  constructor({ error, request_id }) {
    super(`${error.code}: ${error.message} [request ${request_id}]`);
    this.code = error.code;
  }
}

// What is refused for a moment (429, 503) is asked for again, after as long as the server says.
async function call(method, path, body, attempts = 5) {
  const json = body !== undefined && !(body instanceof FormData);
  const headers = { ...(key && { authorization: `Bearer ${key}` }), ...(json && { "content-type": "application/json" }) };
  const answer = await fetch(server + path, { method, headers, body: json ? JSON.stringify(body) : body });
  if ((answer.status === 429 || answer.status === 503) && attempts > 1) {
    const seconds = Number(answer.headers.get("retry-after") ?? 0) + Math.random() * 0.5;
    await new Promise((resolve) => setTimeout(resolve, seconds * 1000));
    return call(method, path, body, attempts - 1);
  }
  const document = await answer.json();
  if (!answer.ok) throw new FacesphereError(document);
  return document;
}

function form(images, fields = {}) {
  const parts = new FormData();
  for (const [name, bytes] of images) parts.append(name, new Blob([bytes]), "image");
  for (const [name, value] of Object.entries(fields)) parts.append(name, value);
  return parts;
}

// encoding=base64 is little-endian float32: a quarter of the bytes, and no parsing of numbers.
function vector(text) {
  const bytes = Uint8Array.from(atob(text), (each) => each.charCodeAt(0));
  return new Float32Array(bytes.buffer);
}

const [a, b] = await Promise.all([readFile(fileA), readFile(fileB)]);
const { faces, model } = await call("POST", "/embed?faces=largest&encoding=base64", form([["image", a]]));
const embedding = vector(faces[0].embedding);
const norm = Math.hypot(...embedding);
console.log(`${model.id}: ${embedding.length} values of norm ${norm.toFixed(3)}`);

const verified = await call("POST", "/verify", form([["image_a", a], ["image_b", b]], { target_fmr: "0.0001" }));
console.log(`one person at FMR ${verified.target_fmr}: ${verified.matched}, similarity ${verified.similarity.toFixed(3)}`);

await call("PUT", "/collections/fetch", { purpose: "by fetch", retention_days: 30 });
const subject = encodeURIComponent("Alice Ångström");
await call("POST", `/collections/fetch/subjects/${subject}/faces`, form([["images", a]], { idempotency_key: "photo-1" }));
const { decision, candidates } = await call("POST", "/collections/fetch/identify", form([["image", b]]));
console.log(`${decision}: ${candidates[0]?.subject}`);
const receipt = await call("DELETE", "/collections/fetch");
console.log(`erased ${receipt.face_ids.length} face, signed by ${receipt.public_key}`);
try {
  await call("GET", "/collections/fetch");
} catch (error) {
  console.log(error.code);
}

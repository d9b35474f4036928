// What the server says of its models. Every address is relative to the page, which may stand below a prefix.

const HERE = new URL("..", document.baseURI);

export const address = (path) => new URL(path, HERE);

const LONGEST_MS = 30000;

const asked = (path) => fetch(address(path), { signal: AbortSignal.timeout(LONGEST_MS) });

async function json(path) {
  const answer = await asked(path);
  const body = await answer.json();
  if (!answer.ok) throw new Error(body.error ?? body.message ?? `${answer.status} ${answer.statusText}`);
  return body;
}

export async function names() {
  return (await json("v2/models")).models;
}

export async function readiness() {
  const answer = await asked("v2/health/ready");
  const body = await answer.json();
  return { ready: answer.ok, reason: body.error ?? "" };
}

// A model, or one version of it: its signature as the manifest has it, its raw inputs, and facts for people.
export async function model(name, version) {
  const [metadata, config, all] = await Promise.all([json(pathOf(name, version)), json(`${pathOf(name, version)}/config`), json(pathOf(name, ""))]);
  const told = (key) => config.parameters[key].string_value;
  return {
    name,
    version,
    versions: all.versions,
    signature: JSON.parse(told("signature")),
    labels: "labels" in config.parameters ? JSON.parse(told("labels")) : {},
    raw: metadata.raw_inputs ?? [],
    preprocess: metadata.preprocess ?? null,
    postprocess: metadata.postprocess ?? null,
    facts: {
      versions: all.versions.join(", "),
      engine: `${told("engine")} on ${told("device")}`,
      execution: told("execution"),
      "content id": told("content_id"),
    },
    predictionsPath: ["predictions", name, version].filter(Boolean).map(encodeURIComponent).join("/"),
  };
}

const pathOf = (name, version) => `v2/models/${encodeURIComponent(name)}${version ? `/versions/${encodeURIComponent(version)}` : ""}`;

// The content id of what is served now under this name.
export const contentId = async (name, version) => (await json(pathOf(name, version))).properties.content_id;

// The tensor input that looks like a picture: where it is, its size, channels and range; null if there is none.
export function pictureTensor({ signature }) {
  if (signature.inputs.length !== 1) return null;
  const [input] = signature.inputs;
  const sizes = input.shape.slice(1).map((size) => (typeof size === "number" ? size : signature.dims[size].opt ?? signature.dims[size].min));
  const [low, high] = input.range ?? [0, input.dtype.startsWith("float") ? 1 : 255];
  const whole = !input.dtype.startsWith("float");
  const picture = (height, width, channels, shape) => ({ name: input.name, height, width, channels, shape, low, high, whole });
  if (input.dtype === "bool" || typeof input.shape[0] !== "string") return null;
  if (sizes.length === 3 && [1, 3].includes(sizes[0])) return picture(sizes[1], sizes[2], sizes[0], "CHW");
  if (sizes.length === 3 && [1, 3].includes(sizes[2])) return picture(sizes[0], sizes[1], sizes[2], "HWC");
  if (sizes.length === 2 && sizes[0] === sizes[1]) return picture(sizes[0], sizes[1], 1, "HW");
  const side = Math.sqrt(sizes[0]);
  if (sizes.length === 1 && Number.isInteger(side) && side >= 4 && side <= 64) return picture(side, side, 1, "flat");
  return null;
}

// A body of zeros (the low end of every range) that the signature allows: something to begin with.
export function exampleBody({ signature, raw }) {
  if (raw.length) return { inputs: Object.fromEntries(raw.map((spec) => [spec.name, exampleRaw(spec)])) };
  const size = (dim) => (typeof dim === "number" ? dim : signature.dims[dim].opt && dim !== "batch" ? signature.dims[dim].opt : signature.dims[dim].min);
  const nested = ([first, ...rest], value) => (first === undefined ? value : Array.from({ length: first }, () => nested(rest, value)));
  const value = (input) => (input.dtype === "bool" ? false : Math.max(input.range?.[0] ?? 0, Math.min(0, input.range?.[1] ?? 0)));
  return { inputs: Object.fromEntries(signature.inputs.map((input) => [input.name, nested(input.shape.map(size), value(input))])) };
}

function exampleRaw(spec) {
  if (spec.kind === "image") return { b64: greyPicture() };
  if (spec.kind === "text") return "A sentence.";
  if (spec.kind === "pair") return ["A sentence.", "Another one."];
  return Object.fromEntries((spec.columns ?? []).map((column) => [column.name, column.values?.[0] ?? column.min ?? 0]));
}

// A small PNG, as base64.
function greyPicture() {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [64, 64];
  const context = canvas.getContext("2d");
  context.fillStyle = "#808080";
  context.fillRect(0, 0, canvas.width, canvas.height);
  return canvas.toDataURL("image/png").split(",")[1];
}

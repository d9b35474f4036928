// The page: a model is chosen, an input made, the model asked, the answer shown.

import { showAnswer, showTime, milliseconds } from "./answer.js";
import { Drawing } from "./draw.js";
import { byId, element, replace, show } from "./element.js";
import { Live } from "./live.js";
import { address, exampleBody, model as modelOf, names, pictureTensor, readiness } from "./models.js";
import { blobOf, tensorOf } from "./pictures.js";
import { curl, python } from "./snippets.js";

const READINESS_MS = 5000;
const LONGEST_BODY = 20000;
const TYPES = { "image/jpeg": "jpg", "image/png": "png", "image/webp": "webp" };

const drawing = new Drawing(byId("canvas"), byId("pen"));
const live = new Live();
const state = { model: null, picture: null, kind: null, asking: 0 };

// Models

async function start() {
  byId("model").addEventListener("change", () => choose(byId("model").value));
  byId("form").addEventListener("submit", (event) => { event.preventDefault(); ask(); });
  document.addEventListener("keydown", (event) => { if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); ask(); } });
  listenForPictures();
  byId("clear").addEventListener("click", () => drawing.clear());
  byId("dark-ink").addEventListener("change", (event) => drawing.setDarkInk(event.target.checked));
  for (const button of document.querySelectorAll("[data-copy]")) button.addEventListener("click", () => copy(button.dataset.copy));
  watchReadiness();
  try {
    const known = await names();
    replace("model", ...known.map((name) => element("option", { value: name }, name)));
    const asked = decodeURIComponent(location.hash.slice(1));
    if (known.includes(asked)) byId("model").value = asked;
    if (known.length) await choose(byId("model").value);
    else refuse("The server has no model. Export one, and load it: the page shows it then.");
  } catch (error) {
    refuse(`The server's models cannot be listed: ${error.message}`);
  }
}

async function choose(name) {
  forget();
  try {
    state.model = await modelOf(name);
  } catch (error) {
    state.model = null;
    refuse(`${name} cannot be asked: ${error.message}`);
    return;
  }
  history.replaceState(null, "", `#${encodeURIComponent(name)}`);
  live.choose(name);
  showSignature();
  showKinds();
  show("tensors-label", Boolean(state.model.postprocess));
}

async function watchReadiness() {
  try {
    const { ready, reason } = await readiness();
    byId("readiness").className = `readiness ${ready ? "good" : "bad"}`;
    tell("readiness", ready ? "ready" : `not ready: ${reason}`);
  } catch {
    byId("readiness").className = "readiness bad";
    tell("readiness", "the server does not answer");
  }
  setTimeout(watchReadiness, READINESS_MS);
}

// A status is spoken when it changes: the same text again would be spoken again.
function tell(id, text) {
  if (byId(id).textContent !== text) byId(id).textContent = text;
}

// Kinds of input

const rawOf = (kind) => (state.model.raw.length === 1 && state.model.raw[0].kind === kind ? state.model.raw[0] : null);

function kinds() {
  const found = [];
  if (rawOf("image") || (!state.model.raw.length && pictureTensor(state.model))) found.push(["picture", "Picture"], ["draw", "Drawing"]);
  if (rawOf("text") || rawOf("pair")) found.push(["text", rawOf("pair") ? "Two texts" : "Text"]);
  if (rawOf("row")) found.push(["row", "Row"]);
  return [...found, ["json", "JSON"]];
}

function showKinds() {
  const found = kinds();
  const buttons = found.map(([kind, title]) => element("label", {}, element("input", { type: "radio", name: "kind", value: kind, onchange: () => pick(kind) }), title));
  byId("kinds").replaceChildren(byId("kinds").querySelector("legend"), ...buttons);
  byId("kinds").hidden = found.length < 2;
  show("second", Boolean(rawOf("pair")));
  byId("text-label").textContent = rawOf("pair") ? "First text" : "Text";
  byId("json").value = compact(exampleBody(state.model));
  if (rawOf("row")) replace("pane-row", ...(rawOf("row").columns ?? []).map(fieldOf));
  buttons[0].querySelector("input").checked = true;
  pick(found[0][0]);
}

// Lists of numbers on one line each: a picture of numbers would have one on each line.
const compact = (value) => JSON.stringify(value, null, 1).replace(/\[[^[\]{}"]*\]/g, (list) => list.replace(/\s+/g, " "));

function pick(kind) {
  state.kind = kind;
  for (const pane of document.querySelectorAll(".pane")) pane.hidden = pane.id !== `pane-${kind}`;
  const scaled = ["picture", "draw"].includes(kind) && !state.model.raw.length && pictureTensor(state.model);
  show("note", Boolean(scaled));
  if (scaled) byId("note").textContent = `This model declares no preprocess: the page scales the picture to ${scaled.width} × ${scaled.height} itself, in its own way. Declare preprocess in the YAML, and the server does exactly what training did.`;
}

function fieldOf(column) {
  const id = `column-${column.name}`;
  const field = column.kind === "category"
    ? element("select", { id, name: column.name }, ...column.values.map((value) => element("option", { value: JSON.stringify(value) }, String(value))))
    : element("input", { id, name: column.name, type: "number", step: "any" });
  return element("label", { htmlFor: id }, column.name, field);
}

// Pictures

function listenForPictures() {
  const drop = byId("drop");
  byId("file").addEventListener("change", (event) => take(event.target.files[0]));
  for (const name of ["dragenter", "dragover"]) drop.addEventListener(name, (event) => { event.preventDefault(); drop.classList.add("over"); });
  for (const name of ["dragleave", "drop"]) drop.addEventListener(name, () => drop.classList.remove("over"));
  drop.addEventListener("drop", (event) => { event.preventDefault(); take(event.dataTransfer.files[0]); });
  document.addEventListener("paste", (event) => {
    const file = [...(event.clipboardData?.files ?? [])].find((one) => one.type.startsWith("image/"));
    if (file && state.kind === "picture") take(file);
  });
}

function take(file) {
  if (!file) return;
  state.picture = file;
  const preview = byId("preview");
  if (preview.src) URL.revokeObjectURL(preview.src);
  preview.src = URL.createObjectURL(file);
  preview.alt = file.name;
  preview.onerror = () => { preview.hidden = true; };
  preview.hidden = false;
  byId("drop-text").textContent = `${file.name}, ${file.size < 10000 ? `${file.size} bytes` : `${(file.size / 1024).toFixed(0)} KiB`}`;
}

// Asking

// What is sent: a body with its type, and, where it is a file, the name that the snippets call it by.
async function made() {
  const json = (value) => ({ type: "application/json", body: typeof value === "string" ? value : JSON.stringify(value) });
  const { model } = state;
  switch (state.kind) {
    case "picture": {
      if (!state.picture) throw new Error("There is no picture yet: choose a file first.");
      if (model.raw.length) return { type: TYPES[state.picture.type] ? state.picture.type : "image/png", body: state.picture, file: state.picture.name };
      const bitmap = await createImageBitmap(state.picture).catch(() => { throw new Error(`${state.picture.name} is no picture that this browser reads.`); });
      return json(tensorBody(await tensorOf(bitmap, pictureTensor(model))));
    }
    case "draw": {
      if (drawing.isEmpty) throw new Error("There is no drawing yet.");
      const picture = drawing.picture();
      if (model.raw.length) return { type: "image/png", body: await blobOf(picture), file: "drawing.png" };
      return json(tensorBody(await tensorOf(picture, pictureTensor(model))));
    }
    case "text":
      if (rawOf("pair")) return json({ inputs: { [rawOf("pair").name]: [[byId("text").value, byId("text-second").value]] } });
      return json({ inputs: { [rawOf("text").name]: [byId("text").value] } });
    case "row":
      return json({ inputs: { [rawOf("row").name]: [rowOfFields()] } });
    default:
      return json(byId("json").value);
  }
}

const tensorBody = (row) => ({ inputs: { [pictureTensor(state.model).name]: [row] } });

function rowOfFields() {
  const value = (field) => (field.value === "" ? null : field.tagName === "SELECT" ? JSON.parse(field.value) : Number(field.value));
  return Object.fromEntries([...byId("pane-row").querySelectorAll("input, select")].map((field) => [field.name, value(field)]));
}

async function ask() {
  if (!state.model) return;
  const number = ++state.asking;
  byId("ask").disabled = true;
  byId("answer").setAttribute("aria-busy", "true");
  try {
    const request = await made();
    const url = address(state.model.predictionsPath);
    if (byId("tensors").checked && state.model.postprocess) url.searchParams.set("outputs", "tensors");
    showSnippets({ ...request, url: url.href });
    url.searchParams.set("timing", "1");
    const began = performance.now();
    const answer = await fetch(url, { method: "POST", headers: { "Content-Type": request.type }, body: request.body });
    const text = await answer.text();
    if (number === state.asking) showReply(answer, text, performance.now() - began);
  } catch (error) {
    if (number === state.asking) refuse(error.message);
  } finally {
    if (number === state.asking) {
      byId("ask").disabled = false;
      byId("answer").setAttribute("aria-busy", "false");
    }
  }
}

function showReply(answer, text, ms) {
  byId("body-text").textContent = text.length > LONGEST_BODY ? `${text.slice(0, LONGEST_BODY)}… (${text.length} characters)` : text;
  show("body", true);
  const body = parsed(text);
  if (!answer.ok) {
    refuse(`${answer.status} ${body?.type ?? answer.statusText}: ${body?.message ?? body?.error ?? text}`);
    return;
  }
  show("error", false);
  byId("summary").textContent = `${showAnswer(body)}, in ${milliseconds(ms)}`;
  showTime(answer.headers.get("server-timing"), ms);
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

function refuse(message) {
  replace("result");
  show("time", false);
  byId("summary").textContent = "";
  byId("error").textContent = message;
  show("error", true);
}

function forget() {
  replace("result");
  for (const id of ["error", "time", "snippets", "body"]) show(id, false);
  byId("summary").textContent = "Nothing was asked yet.";
}

// Snippets

function showSnippets(request) {
  byId("curl").textContent = curl(request);
  byId("python").textContent = python(request);
  byId("copied").textContent = "";
  show("snippets", true);
}

async function copy(id) {
  try {
    await navigator.clipboard.writeText(byId(id).textContent);
    byId("copied").textContent = "Copied.";
  } catch {
    getSelection().selectAllChildren(byId(id)); // without https browsers have no clipboard: it can be copied by hand
    byId("copied").textContent = "Selected: copy it with Ctrl + C.";
  }
}

// Signature

function showSignature() {
  const { signature, raw, preprocess, postprocess, facts } = state.model;
  const dim = (size) => (typeof size === "number" ? String(size) : `${size} ${signature.dims[size].min}–${signature.dims[size].max}`);
  const row = (...cells) => element("tr", {}, ...cells.map((cell) => element("td", {}, cell)));
  const tensors = (side, specs) => specs.map((spec) => row(side, spec.name, spec.dtype, `[${spec.shape.map(dim).join(", ")}]`, spec.range ? `${spec.range[0]} to ${spec.range[1]}` : ""));
  const head = element("tr", {}, ...["", "name", "type", "shape", "values"].map((title) => element("th", { scope: "col" }, title)));
  replace("signature", element("thead", {}, head), element("tbody", {}, ...raw.map((spec) => row("raw", spec.name, spec.kind, "", `makes ${spec.makes.join(", ")}`)), ...tensors("in", signature.inputs), ...tensors("out", signature.outputs)));
  replace("operations", ...chainsOf("Before the model", preprocess), ...chainsOf("After it", postprocess));
  replace("facts", ...Object.entries(facts).flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]));
}

// A chain of declared operations as a list: `resize: short 256`.
function chainsOf(title, declared) {
  if (!declared) return [];
  const chains = Array.isArray(declared) ? [["", declared]] : Object.entries(declared);
  const parameters = (values) => Object.entries(values).map(([name, value]) => `${name} ${typeof value === "object" ? JSON.stringify(value) : value}`).join(", ");
  const item = (operation) => Object.entries(operation).map(([name, values]) => element("li", {}, element("code", {}, name), ` ${parameters(values)}`));
  return chains.flatMap(([name, chain]) => [element("h3", {}, name ? `${title}: ${name}` : title), element("ol", { className: "operations" }, ...chain.flatMap(item))]);
}

start();

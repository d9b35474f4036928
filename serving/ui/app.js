// The page: a model is chosen, an input made, the model asked, the answer shown.

import { milliseconds, showAnswer, showTime } from "./answer.js";
import { Drawing } from "./draw.js";
import { byId, compact, element, replace, show, shortened, tell } from "./element.js";
import { Live } from "./live.js";
import { address, contentId, exampleBody, model as modelOf, names, pictureTensor, readiness } from "./models.js";
import { Picture } from "./picture.js";
import { blobOf, tensorOf } from "./pictures.js";
import { fieldsOf, rowOf } from "./row.js";
import { showSignature } from "./signature.js";
import { curl, python } from "./snippets.js";

const LOOK_MS = 5000;
const SOON_MS = 400;
const COPIED_MS = 2000;

const drawing = new Drawing(byId("canvas"), byId("pen"));
const picture = new Picture(() => { if (kinds().some(([kind]) => kind === "picture")) pick("picture"); });
const live = new Live();
const state = { model: null, kind: null, choosing: 0, asked: null };

// Models

async function start() {
  byId("model").addEventListener("change", () => choose(byId("model").value));
  byId("version").addEventListener("change", () => choose(byId("model").value, byId("version").value));
  byId("form").noValidate = true;
  byId("form").addEventListener("submit", (event) => { event.preventDefault(); ask(); });
  byId("stop").addEventListener("click", () => state.asked?.abort());
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey) || event.repeat) return;
    event.preventDefault();
    ask();
  });
  byId("clear").addEventListener("click", () => drawing.clear());
  byId("dark-ink").addEventListener("change", (event) => drawing.setDarkInk(event.target.checked));
  for (const button of document.querySelectorAll("[data-copy]")) button.addEventListener("click", () => copy(button));
  addEventListener("hashchange", () => { const [name, version] = inAddress(); if (name && !isChosen(name, version)) choose(name, version); });
  await look();
  show("main", true);
}

// What the server has now: models come and go, and versions take over, while the page is open.
async function look() {
  try {
    const { ready, reason } = await readiness();
    showReadiness(ready, ready ? "ready" : `not ready: ${reason}`);
    await listModels(await names());
  } catch {
    showReadiness(false, "the server does not answer");
  }
  setTimeout(() => (document.hidden ? document.addEventListener("visibilitychange", look, { once: true }) : look()), LOOK_MS);
}

function showReadiness(isGood, text) {
  byId("readiness").className = `readiness ${isGood ? "good" : "bad"}`;
  tell("readiness", text);
}

async function listModels(known) {
  const before = [...byId("model").options].map((option) => option.value);
  if (JSON.stringify(known) !== JSON.stringify(before)) {
    replace("model", ...known.map((name) => element("option", { value: name }, name)));
    if (state.model) byId("model").value = state.model.name;
  }
  byId("model").disabled = !known.length;
  if (!known.length) {
    state.model = null;
    refuse("The server has no model. Export one and load it: the page shows it within seconds.");
  } else if (!state.model || !known.includes(state.model.name)) {
    const [name, version] = inAddress();
    await (known.includes(name) ? choose(name, version) : choose(known[0]));
  } else {
    await renew();
  }
}

// Another artifact may serve by now under the same name.
async function renew() {
  const { name, version, facts } = state.model;
  const choosing = state.choosing;
  const now = await contentId(name, version).catch(() => null);
  if (now !== null && now !== facts["content id"] && choosing === state.choosing) await choose(name, version);
}

const isChosen = (name, version) => state.model?.name === name && state.model.version === version;

// `#digits` or `#digits/2`; names are those of directories, which hold no slash.
function inAddress() {
  const [name = "", version = ""] = location.hash.slice(1).split("/").map((part) => {
    try {
      return decodeURIComponent(part);
    } catch {
      return "";
    }
  });
  return [name, version];
}

async function choose(name, version = "") {
  const choosing = ++state.choosing;
  state.asked?.abort();
  history.replaceState(null, "", `#${[name, version].filter(Boolean).map(encodeURIComponent).join("/")}`);
  byId("model").value = name;
  try {
    const chosen = await modelOf(name, version);
    if (choosing !== state.choosing) return;
    state.model = chosen;
  } catch (error) {
    if (choosing !== state.choosing) return;
    state.model = null;
    refuse(`${name} cannot be asked: ${error.message}`);
    return;
  }
  forget();
  showVersions();
  live.choose(name);
  showSignature(state.model);
  showKinds();
  show("tensors-label", Boolean(state.model.postprocess));
}

function showVersions() {
  const { versions, version } = state.model;
  replace("version", element("option", { value: "" }, "default"), ...versions.map((one) => element("option", { value: one }, one)));
  byId("version").value = version;
  for (const id of ["version", "version-label"]) show(id, versions.length > 1);
}

// Kinds of input

const rawOf = (kind) => (state.model.raw.length === 1 && state.model.raw[0].kind === kind ? state.model.raw[0] : null);

function kinds() {
  if (!state.model) return [];
  const found = [];
  if (rawOf("image") || (!state.model.raw.length && pictureTensor(state.model))) found.push(["picture", "Picture"], ["draw", "Drawing"]);
  if (rawOf("text") || rawOf("pair")) found.push(["text", rawOf("pair") ? "Two texts" : "Text"]);
  if (rawOf("row")) found.push(["row", "Row"]);
  return [...found, ["json", "JSON"]];
}

function showKinds() {
  const found = kinds();
  const radio = (kind) => element("input", { type: "radio", name: "kind", value: kind, onchange: () => pick(kind) });
  const buttons = found.map(([kind, title]) => element("label", {}, radio(kind), title));
  byId("kinds").replaceChildren(byId("kinds").querySelector("legend"), ...buttons);
  show("second", Boolean(rawOf("pair")));
  tell("text-label", rawOf("pair") ? "First text" : "Text");
  tell("json-path", `POST /${state.model.predictionsPath}`);
  byId("json").value = compact(exampleBody(state.model));
  replace("pane-row", ...fieldsOf(rawOf("row")?.columns ?? []));
  pick(found.some(([kind]) => kind === state.kind) ? state.kind : found[0][0]);
}

function pick(kind) {
  state.kind = kind;
  for (const radio of document.getElementsByName("kind")) radio.checked = radio.value === kind;
  for (const pane of document.querySelectorAll(".pane")) pane.hidden = pane.id !== `pane-${kind}`;
  const scaled = ["picture", "draw"].includes(kind) && !state.model.raw.length && pictureTensor(state.model);
  show("note", Boolean(scaled));
  if (scaled) {
    byId("note").textContent = `This model declares no preprocess: the page scales the picture to ${scaled.width} × ${scaled.height} `
      + "in its own way. Declare preprocess in the YAML, and the server does exactly what training did.";
  }
}

// Asking

// What is sent: a body with its type, and, where it is a file, the name that the snippets call it by.
async function made() {
  const { model } = state;
  switch (state.kind) {
    case "picture": {
      const { file } = picture;
      if (!file) throw new Error("There is no picture yet: choose a file first.");
      if (model.raw.length) return { type: file.type.startsWith("image/") ? file.type : "image/png", body: file, file: file.name };
      const bitmap = await createImageBitmap(file).catch(() => { throw new Error(`${file.name} is no picture that this browser reads.`); });
      return json(tensorBody(await tensorOf(bitmap, pictureTensor(model))));
    }
    case "draw": {
      if (drawing.isEmpty) throw new Error("There is no drawing yet.");
      if (model.raw.length) return { type: "image/png", body: await blobOf(drawing.picture()), file: "drawing.png" };
      return json(tensorBody(await tensorOf(drawing.picture(), pictureTensor(model))));
    }
    case "text":
      if (rawOf("pair")) return json({ inputs: { [rawOf("pair").name]: [[byId("text").value, byId("text-second").value]] } });
      return json({ inputs: { [rawOf("text").name]: [byId("text").value] } });
    case "row":
      return json({ inputs: { [rawOf("row").name]: [rowIn(byId("pane-row"))] } });
    default:
      return { type: "application/json", body: byId("json").value };
  }
}

const json = (value) => ({ type: "application/json", body: JSON.stringify(value) });
const tensorBody = (row) => ({ inputs: { [pictureTensor(state.model).name]: [row] } });

function rowIn(pane) {
  const wrong = pane.querySelector(":invalid");
  if (wrong) {
    wrong.focus();
    throw new Error(`${wrong.name}: ${wrong.validationMessage}`);
  }
  return rowOf(pane);
}

// One question at a time: a second one waits for the answer, or for Stop.
async function ask() {
  if (!state.model || state.asked) return;
  const asked = new AbortController();
  state.asked = asked;
  const soon = setTimeout(() => waiting(true), SOON_MS);
  byId("ask").setAttribute("aria-disabled", "true"); // not `disabled`: the focus would be lost
  byId("answer").setAttribute("aria-busy", "true");
  try {
    const request = await made();
    const url = address(state.model.predictionsPath);
    if (byId("tensors").checked && state.model.postprocess) url.searchParams.set("outputs", "tensors");
    const shown = { ...request, url: url.href };
    url.searchParams.set("timing", "1");
    const began = performance.now();
    const options = { method: "POST", headers: { "Content-Type": request.type }, body: request.body, signal: asked.signal };
    const answer = await fetch(url, options);
    const text = await answer.text();
    const ms = performance.now() - began;
    if (asked.signal.aborted) return;
    showSnippets(shown);
    showReply(answer, text, ms);
  } catch (error) {
    refuse(asked.signal.aborted ? "Stopped: the answer was not waited for." : told(error));
  } finally {
    clearTimeout(soon);
    state.asked = null;
    waiting(false);
    byId("ask").removeAttribute("aria-disabled");
    byId("answer").setAttribute("aria-busy", "false");
    bringAnswer();
  }
}

const told = (error) => (error instanceof TypeError ? `The server cannot be reached: ${error.message}` : error.message);

function waiting(isWaiting) {
  if (!isWaiting && document.activeElement === byId("stop")) byId("ask").focus();
  show("stop", isWaiting);
  if (isWaiting) tell("summary", "Asking…");
}

// On a narrow screen the answer stands below the input.
function bringAnswer() {
  const answer = byId("answer");
  if (answer.getBoundingClientRect().top > innerHeight * 0.6) answer.scrollIntoView({ block: "start" });
}

function showReply(answer, text, ms) {
  const body = parsed(text);
  if (!answer.ok) {
    const type = body?.type ?? answer.statusText;
    refuse(`${answer.status}${type ? ` ${type}` : ""}: ${body?.message ?? body?.error ?? shortened(text)}`);
    show("snippets", true);
  } else {
    show("error", false);
    const version = body.model_version === undefined ? "" : `, by version ${body.model_version}`;
    tell("summary", `${showAnswer(body, state.model)}${version}, in ${milliseconds(ms)}`);
    showTime(answer.headers.get("server-timing"), ms);
  }
  byId("body-text").textContent = shortened(text);
  show("body", true);
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
  for (const id of ["time", "snippets", "body"]) show(id, false);
  tell("summary", "");
  tell("error", message);
  show("error", true);
}

function forget() {
  replace("result");
  for (const id of ["error", "time", "snippets", "body"]) show(id, false);
  tell("summary", "Nothing was asked yet.");
}

// Snippets

function showSnippets(request) {
  byId("curl").textContent = curl(request);
  byId("python").textContent = python(request);
  tell("copied", "");
  show("snippets", true);
}

async function copy(button) {
  const source = byId(button.dataset.copy);
  try {
    await navigator.clipboard.writeText(source.textContent);
    button.textContent = "Copied";
    byId("copied").className = "unseen"; // the button shows it: this is for those who hear the page
    tell("copied", "Copied.");
    setTimeout(() => { button.textContent = "Copy"; }, COPIED_MS);
  } catch {
    getSelection().selectAllChildren(source); // without https browsers have no clipboard: it can be copied by hand
    byId("copied").className = "quiet";
    tell("copied", "It is selected: copy it with Ctrl + C.");
  }
}

start();

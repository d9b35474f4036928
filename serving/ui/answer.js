// The answer: bars for classes and numbers, the time it took, and text for everything else.

import { byId, compact, element, replace, show, shortened } from "./element.js";

const MOST_BARS = 10;
const MOST_ROWS = 8;
const STAGES = ["decode", "queue", "infer", "encode"];

// Shows a body of /predictions of this model. Returns what to say of it in a few words.
export function showAnswer(body, model) {
  const rows = body.predictions ? body.predictions : rowsOfTensors(body.outputs ?? {});
  const parts = rows.map((row) => partsOf(row, model));
  replace("result", ...parts.slice(0, MOST_ROWS).map((row, index) => shownRow(row, rows.length > 1 ? index : null, !body.predictions)));
  if (rows.length > MOST_ROWS) byId("result").append(quiet(`and ${rows.length - MOST_ROWS} more rows: see the body`));
  const best = rows.length === 1 ? bestOf(parts[0]) : null;
  return best ?? `${rows.length} row${rows.length === 1 ? "" : "s"}`;
}

function rowsOfTensors(outputs) {
  const [first] = Object.values(outputs);
  if (!Array.isArray(first)) return [outputs];
  return first.map((_, index) => Object.fromEntries(Object.entries(outputs).map(([name, values]) => [name, values[index]])));
}

// A row as [name of the output, value, names of its classes]: a model of one output that declares a postprocess answers with the
// value alone.
function partsOf(row, { signature: { outputs }, labels }) {
  const parts = isObject(row) && !scored(row) ? Object.entries(row) : [[outputs.length === 1 ? outputs[0].name : "", row]];
  return parts.map(([name, value]) => [name, value, labels[name] ?? []]);
}

// The only value of a row needs no title where a postprocess made it: it is not what the output's name says.
function shownRow(parts, index, areTensors) {
  const title = index === null ? [] : [element("h3", {}, `Row ${index + 1}`)];
  const isNamed = (value) => parts.length > 1 || (areTensors && Array.isArray(value) && value.length > 1);
  const shownPart = ([name, value, classes]) => [...(isNamed(value) ? [element("h4", {}, name)] : []), ...shownValue(name, value, classes)];
  return element("div", { className: "row" }, ...title, ...parts.flatMap(shownPart));
}

function shownValue(name, value, classes) {
  const entries = entriesOf(name, value, classes);
  if (entries === null) return [element("pre", { tabIndex: 0 }, shortened(typeof value === "string" ? value : compact(value)))];
  if (entries.length === 0) return [quiet("none")];
  const more = value.length > MOST_BARS ? [quiet(`the ${MOST_BARS} ${value.every(isNumber) ? "largest" : "first"} of ${value.length}`)] : [];
  return [barsOf(entries), ...more];
}

// What can be drawn as bars: [name, number] pairs, the largest first; null for anything else.
function entriesOf(name, value, classes) {
  if (isNumber(value)) return [[name, value]];
  if (scored(value)) return [nameAndScore(value, 0)];
  if (!Array.isArray(value)) return null;
  if (value.every(scored)) return value.slice(0, MOST_BARS).map(nameAndScore);
  if (!value.every(isNumber)) return null;
  if (value.length === 1) return [[name, value[0]]];
  const numbered = value.map((number, index) => [classes[index] ?? String(index), number]);
  return numbered.sort((one, other) => (other[1] ?? -Infinity) - (one[1] ?? -Infinity)).slice(0, MOST_BARS);
}

const SCORES = ["probability", "score", "value"];
const isNumber = (value) => typeof value === "number" || value === null;
const isObject = (value) => value !== null && typeof value === "object" && !Array.isArray(value);
const scoreKey = (entry) => SCORES.find((key) => key in entry && isNumber(entry[key]));
const scored = (entry) => isObject(entry) && scoreKey(entry) !== undefined && ["label", "index", "box"].some((key) => key in entry);

function nameAndScore(entry, place) {
  const name = String(entry.label ?? entry.index ?? place);
  const box = Array.isArray(entry.box) ? ` [${entry.box.map(shown).join(", ")}]` : "";
  return [`${name}${box}`, entry[scoreKey(entry)]];
}

function bestOf(parts) {
  const entries = entriesOf(...parts[0]);
  return entries?.length ? `${entries[0][0]}: ${shown(entries[0][1])}` : null;
}

// Probabilities reach from 0 to 1; other numbers as far as they go, from a line at 0 to both sides.
function barsOf(entries) {
  const numbers = entries.map(([, number]) => number ?? 0);
  const isShare = numbers.every((number) => number >= 0 && number <= 1);
  const [low, high] = [Math.min(0, ...numbers), isShare ? 1 : Math.max(0, ...numbers)];
  return element("ul", { className: "bars" }, ...entries.map(([name, number]) => barOf(name, number, low, high - low || 1)));
}

function barOf(name, number, low, width) {
  const fill = element("span", { className: number < 0 ? "fill below" : "fill" });
  const track = element("span", { className: low < 0 ? "track signed" : "track", ariaHidden: "true" }, fill);
  track.style.setProperty("--zero", `${(-100 * low) / width}%`);
  fill.style.left = `${(100 * (Math.min(number ?? 0, 0) - low)) / width}%`;
  fill.style.width = `${(100 * Math.abs(number ?? 0)) / width}%`;
  const numeral = element("span", { className: "number" }, shown(number));
  return element("li", {}, element("span", { className: "name", title: name }, name), track, numeral);
}

const quiet = (text) => element("p", { className: "quiet" }, text);

export function shown(number) {
  if (number === null || number === undefined) return "not a number";
  if (Number.isInteger(number) && Math.abs(number) < 1e6) return String(number);
  return Math.abs(number) >= 0.001 && Math.abs(number) < 1e6 ? number.toPrecision(4) : number.toExponential(2);
}

// `header`: Server-Timing; `wholeMs`: from the request to the answer, as the browser saw it.
export function showTime(header, wholeMs) {
  const told = Object.fromEntries([...(header ?? "").matchAll(/(\w+);dur=([\d.]+)/g)].map(([, name, ms]) => [name, Number(ms)]));
  const stages = STAGES.filter((stage) => stage in told).map((stage) => [stage, told[stage]]);
  show("time", stages.length > 0);
  const servedMs = stages.reduce((sum, [, ms]) => sum + ms, 0);
  replace("time-bar", ...stages.map(([stage, ms]) => {
    const part = element("span", { className: stage });
    part.style.flexGrow = (100 * ms) / (servedMs || 1);
    return part;
  }));
  const dd = (ms) => element("dd", {}, milliseconds(ms));
  replace("time-legend", ...stages.map(([stage, ms]) => element("div", { className: stage }, element("dt", {}, stage), dd(ms))));
  byId("time-whole").textContent = `${milliseconds(servedMs)} in all; ${milliseconds(wholeMs)} until the browser had it`;
}

export const milliseconds = (ms) => (ms < 1 ? `${(ms * 1000).toFixed(0)} µs` : ms < 100 ? `${ms.toPrecision(3)} ms` : ms < 10000 ? `${ms.toFixed(0)} ms` : `${(ms / 1000).toFixed(1)} s`);

// The answer: bars for classes and numbers, the time it took, and the body for everything else.

import { byId, element, replace, show } from "./element.js";

const MOST_BARS = 10;
const MOST_ROWS = 8;
const STAGES = ["decode", "queue", "infer", "encode"];

export function showAnswer(body) {
  const rows = body.predictions ? body.predictions : rowsOfTensors(body.outputs ?? {});
  replace("result", ...rows.slice(0, MOST_ROWS).map((row, index) => rowOf(row, rows.length > 1 ? index : null)));
  if (rows.length > MOST_ROWS) byId("result").append(element("p", { className: "quiet" }, `and ${rows.length - MOST_ROWS} more rows: see the body`));
  const best = bestOf(rows[0]);
  return best === null ? `${rows.length} row${rows.length === 1 ? "" : "s"}` : best;
}

function rowsOfTensors(outputs) {
  const [first] = Object.values(outputs);
  if (!Array.isArray(first)) return [outputs];
  return first.map((_, index) => Object.fromEntries(Object.entries(outputs).map(([name, values]) => [name, values[index]])));
}

function rowOf(row, index) {
  const parts = isPlainObject(row) && !scored(row) ? Object.entries(row) : [[null, row]];
  const title = index === null ? [] : [element("h3", {}, `Row ${index + 1}`)];
  return element("div", { className: "row" }, ...title, ...parts.flatMap(([name, value]) => [...(name === null ? [] : [element("h3", {}, name)]), valueOf(value)]));
}

function valueOf(value) {
  const entries = entriesOf(value);
  if (entries) return barsOf(entries);
  return element("pre", { tabIndex: 0 }, typeof value === "string" ? value : JSON.stringify(value, null, 1));
}

// What can be drawn as bars: [name, number] pairs, the largest first; null for anything else.
function entriesOf(value) {
  if (scored(value)) return [nameAndScore(value, 0)];
  if (!Array.isArray(value) || !value.length) return null;
  if (value.every(scored)) return value.map(nameAndScore).slice(0, MOST_BARS);
  if (!value.every((number) => typeof number === "number" || number === null)) return null;
  const numbered = value.map((number, index) => [String(index), number]);
  return numbered.sort((one, other) => (other[1] ?? -Infinity) - (one[1] ?? -Infinity)).slice(0, MOST_BARS);
}

const SCORES = ["probability", "score", "value"];
const scoreOf = (entry) => SCORES.map((key) => entry[key]).find((number) => typeof number === "number");
const scored = (entry) => isPlainObject(entry) && scoreOf(entry) !== undefined && ("label" in entry || "index" in entry);
const nameAndScore = (entry, place) => [String(entry.label ?? entry.index ?? place), scoreOf(entry)];
const isPlainObject = (value) => value !== null && typeof value === "object" && !Array.isArray(value);

function bestOf(row) {
  const value = isPlainObject(row) && !scored(row) ? Object.values(row)[0] : row;
  const entries = entriesOf(value);
  return entries ? `${entries[0][0]}: ${shown(entries[0][1])}` : null;
}

function barsOf(entries) {
  const numbers = entries.map(([, number]) => number ?? 0);
  const widest = Math.max(...numbers.map(Math.abs), numbers.every((number) => number >= 0 && number <= 1) ? 1 : 1e-12);
  return element("ul", { className: "bars" }, ...entries.map(([name, number]) => barOf(name, number, widest)));
}

function barOf(name, number, widest) {
  const fill = element("span", { className: number < 0 ? "fill below" : "fill" });
  fill.style.width = `${(100 * Math.abs(number ?? 0)) / widest}%`;
  return element("li", {}, element("span", { className: "name", title: name }, name), element("span", { className: "track", ariaHidden: "true" }, fill), element("span", { className: "number" }, shown(number)));
}

export function shown(number) {
  if (number === null || number === undefined) return "not a number";
  return Math.abs(number) >= 0.001 && Math.abs(number) < 1e6 ? number.toPrecision(4) : number === 0 ? "0" : number.toExponential(2);
}

// `header`: Server-Timing; `wholeMs`: from the request to the answer, as the browser saw it.
export function showTime(header, wholeMs) {
  const stages = Object.fromEntries([...(header ?? "").matchAll(/(\w+);dur=([\d.]+)/g)].map(([, name, ms]) => [name, Number(ms)]));
  show("time", Boolean(header));
  if (!header) return;
  const served = STAGES.reduce((sum, stage) => sum + (stages[stage] ?? 0), 0);
  const all = [...STAGES.map((stage) => [stage, stages[stage] ?? 0]), ["network", Math.max(wholeMs - served, 0)]];
  replace("time-bar", ...all.map(([stage, ms]) => {
    const part = element("span", { className: stage });
    part.style.flex = `${ms} 0 0`;
    return part;
  }));
  const labels = { network: "network and browser" };
  replace("time-legend", ...all.map(([stage, ms]) => element("div", { className: stage }, element("dt", {}, labels[stage] ?? stage), element("dd", {}, milliseconds(ms)))));
}

export const milliseconds = (ms) => (ms < 1 ? `${(ms * 1000).toFixed(0)} µs` : ms < 100 ? `${ms.toFixed(2)} ms` : `${ms.toFixed(0)} ms`);

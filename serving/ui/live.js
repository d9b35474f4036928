// The live view: what /metrics says, once a second, of the model that is chosen.

import { milliseconds } from "./answer.js";
import { byId, show, tell } from "./element.js";
import { address } from "./models.js";

const EVERY_MS = 1000;
const LONGEST_MS = 10000;
const KEPT = 60;
const SAMPLE = /^stateserve_(\w+)\{(.*)\} ([^ ]+)/;
const LABEL = /(\w+)="((?:\\.|[^"\\])*)"/g;
const SVG = "http://www.w3.org/2000/svg";
const HEIGHT = 30;

export class Live {
  constructor() {
    this.choose(null);
    this.tick();
  }

  choose(model) {
    this.model = model;
    this.before = null;
    this.points = { rate: [], p50: [], p99: [], rows: [] };
    this.draw();
  }

  async tick() {
    const { model } = this;
    if (model !== null && !document.hidden) {
      try {
        const answer = await fetch(address("metrics"), { signal: AbortSignal.timeout(LONGEST_MS) });
        if (!answer.ok) throw new Error(`${answer.status} ${answer.statusText}`);
        const text = await answer.text();
        if (model === this.model) this.take(countsOf(text, model), performance.now());
        show("live-note", false);
      } catch (error) {
        this.before = null;
        tell("live-note", `No metrics at this address: ${error.message}`);
        show("live-note", true);
      }
    }
    setTimeout(() => this.tick(), EVERY_MS);
  }

  take(counts, now) {
    const { before } = this;
    this.before = { counts, now };
    if (before === null) return;
    const change = (name) => Math.max((counts.sums[name] ?? 0) - (before.counts.sums[name] ?? 0), 0);
    const calls = change("executions_total");
    const latency = changeOf(counts.buckets.request_seconds, before.counts.buckets.request_seconds);
    this.add("rate", (1000 * (change("requests_answered_total") + change("requests_failed_total"))) / (now - before.now));
    this.add("p50", quantile(latency, 0.5));
    this.add("p99", quantile(latency, 0.99));
    this.add("rows", calls ? change("batch_rows_sum") / calls : null);
    this.draw();
  }

  add(name, value) {
    this.points[name].push(value);
    if (this.points[name].length > KEPT) this.points[name].shift();
  }

  // Where nothing was asked for a second, what was measured last stands there, in grey.
  draw() {
    const { rate, p50, p99, rows } = this.points;
    const number = (value) => (value >= 10 ? value.toFixed(0) : value.toFixed(1));
    const seconds = (value) => milliseconds(value * 1000);
    figure("rate", [rate], number);
    figure("latency", [p50, p99], seconds);
    figure("rows", [rows], number);
  }
}

function figure(name, series, told) {
  const last = series.map((points) => points.findLast((value) => value !== null));
  const value = byId(`live-${name}`);
  value.textContent = last[0] === undefined ? "–" : last.map(told).join(" · ");
  value.classList.toggle("past", series[0].at(-1) === null);
  const most = Math.max(...series.flat().map((point) => point ?? 0), 0);
  byId(`peak-${name}`).textContent = most ? `peak ${told(most)}` : "";
  chart(byId(`chart-${name}`), series, most || 1);
}

// Sums over versions and protocols of one model's samples, and the histograms' cumulative buckets.
function countsOf(text, model) {
  const sums = {};
  const buckets = {};
  for (const line of text.split("\n")) {
    const [, name, labelled, value] = SAMPLE.exec(line) ?? [];
    if (name === undefined) continue;
    const labels = Object.fromEntries([...labelled.matchAll(LABEL)].map(([, key, quoted]) => [key, unescaped(quoted)]));
    if (labels.model !== model) continue;
    const [place, key] = name.endsWith("_bucket") ? [(buckets[name.slice(0, -7)] ??= {}), labels.le] : [sums, name];
    place[key] = (place[key] ?? 0) + Number(value);
  }
  return { sums, buckets };
}

const unescaped = (text) => text.replace(/\\(.)/g, (_, character) => (character === "n" ? "\n" : character));

function changeOf(now = {}, before = {}) {
  const edge = (text) => (text === "+Inf" ? Infinity : Number(text));
  const changes = Object.entries(now).map(([key, count]) => [edge(key), Math.max(count - (before[key] ?? 0), 0)]);
  return changes.sort(([one], [other]) => one - other);
}

// The quantile of a histogram's cumulative counts, straight within its bucket; null where nothing was counted.
function quantile(buckets, part) {
  const all = buckets.at(-1)?.[1] ?? 0;
  if (!all) return null;
  let [edge, count] = [0, 0];
  for (const [next, upTo] of buckets) {
    if (upTo >= part * all) return Number.isFinite(next) ? edge + ((next - edge) * (part * all - count)) / Math.max(upTo - count, 1) : edge;
    [edge, count] = [next, upTo];
  }
  return edge;
}

function chart(svg, series, most) {
  svg.setAttribute("viewBox", `0 0 ${KEPT - 1} ${HEIGHT}`);
  svg.setAttribute("preserveAspectRatio", "none");
  const base = drawn("line", { x1: 0, x2: KEPT - 1, y1: HEIGHT - 0.5, y2: HEIGHT - 0.5 });
  svg.replaceChildren(base, ...series.map((points, index) => drawn("path", { class: index ? "second" : "first", d: pathOf(points, most) })));
}

// Seconds without a value are gaps; one alone between gaps is a dot: a line of no length with a round end.
function pathOf(points, most) {
  const start = KEPT - points.length;
  const at = (value, place) => `${start + place} ${(HEIGHT - 2 - ((HEIGHT - 4) * value) / most).toFixed(2)}`;
  return points.map((value, place) => (value === null ? "" : (points[place - 1] ?? null) === null ? `M${at(value, place)}h0` : `L${at(value, place)}`)).join("");
}

function drawn(tag, attributes) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

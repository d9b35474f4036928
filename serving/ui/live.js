// The live view: what /metrics says, once a second, of the model that is chosen.

import { byId, show } from "./element.js";
import { address } from "./models.js";
import { milliseconds } from "./answer.js";

const EVERY_MS = 1000;
const KEPT = 60;
const SAMPLE = /^(stateserve_\w+)\{(.*)\} ([^ ]+)/;
const LABEL = /(\w+)="((?:\\.|[^"\\])*)"/g;
const SVG = "http://www.w3.org/2000/svg";

export class Live {
  constructor() {
    this.model = null;
    this.before = null;
    this.points = { rate: [], p50: [], p99: [], rows: [] };
    this.tick();
  }

  choose(model) {
    this.model = model;
    this.before = null;
    for (const points of Object.values(this.points)) points.length = 0;
  }

  async tick() {
    if (this.model !== null && !document.hidden) {
      try {
        const answer = await fetch(address("metrics"));
        if (!answer.ok) throw new Error(`${answer.status} ${answer.statusText}`);
        this.take(await answer.text(), performance.now());
        show("live-note", false);
      } catch (error) {
        this.before = null;
        byId("live-note").textContent = `No metrics at this address: ${error.message}`;
        show("live-note", true);
      }
    }
    setTimeout(() => this.tick(), EVERY_MS);
  }

  take(text, now) {
    const found = countsOf(text, this.model);
    const { before } = this;
    this.before = { found, now };
    if (before === null) return;
    const seconds = (now - before.now) / 1000;
    const change = (name) => Math.max((found.sums[name] ?? 0) - (before.found.sums[name] ?? 0), 0);
    const requests = change("requests_answered_total") + change("requests_failed_total");
    const calls = change("executions_total");
    const buckets = (name) => Object.entries(found.buckets[name] ?? {}).map(([edge, count]) => [Number(edge), Math.max(count - (before.found.buckets[name]?.[edge] ?? 0), 0)]);
    const latency = buckets("request_seconds");
    this.add("rate", requests / seconds);
    this.add("p50", quantile(latency, 0.5));
    this.add("p99", quantile(latency, 0.99));
    this.add("rows", calls ? change("batch_rows_sum") / calls : null);
    this.draw();
  }

  add(name, value) {
    this.points[name].push(value);
    if (this.points[name].length > KEPT) this.points[name].shift();
  }

  draw() {
    const { rate, p50, p99, rows } = this.points;
    const last = (points) => points[points.length - 1];
    byId("live-rate").textContent = last(rate) >= 10 ? last(rate).toFixed(0) : last(rate).toFixed(1);
    byId("live-latency").textContent = last(p50) === null ? "–" : `${milliseconds(last(p50) * 1000)} · ${milliseconds(last(p99) * 1000)}`;
    byId("live-rows").textContent = last(rows) === null ? "–" : last(rows).toFixed(1);
    chart("chart-rate", [rate]);
    chart("chart-latency", [p50, p99]);
    chart("chart-rows", [rows]);
  }
}

// Sums over versions and protocols of one model's samples, and the histograms' buckets.
function countsOf(text, model) {
  const sums = {};
  const buckets = {};
  for (const line of text.split("\n")) {
    const match = SAMPLE.exec(line);
    if (!match) continue;
    const labels = Object.fromEntries([...match[2].matchAll(LABEL)].map(([, key, value]) => [key, value.replace(/\\(.)/g, (_, character) => (character === "n" ? "\n" : character))]));
    if (labels.model !== model) continue;
    const name = match[1].replace("stateserve_", "");
    const value = Number(match[3]);
    if (name.endsWith("_bucket")) {
      const histogram = (buckets[name.slice(0, -7)] ??= {});
      const edge = labels.le === "+Inf" ? "Infinity" : labels.le;
      histogram[edge] = (histogram[edge] ?? 0) + value;
    } else {
      sums[name] = (sums[name] ?? 0) + value;
    }
  }
  return { sums, buckets };
}

// The quantile of a histogram's cumulative counts, straight within its bucket; null where nothing was counted.
function quantile(buckets, part) {
  const sorted = buckets.sort(([one], [other]) => one - other);
  const all = sorted.length ? sorted[sorted.length - 1][1] : 0;
  if (!all) return null;
  let [edge, count] = [0, 0];
  for (const [next, upTo] of sorted) {
    if (upTo >= part * all) return Number.isFinite(next) ? edge + ((next - edge) * (part * all - count)) / Math.max(upTo - count, 1) : edge;
    [edge, count] = [next, upTo];
  }
  return edge;
}

function chart(id, series) {
  const svg = byId(id);
  svg.setAttribute("viewBox", `0 0 ${KEPT - 1} 30`);
  svg.setAttribute("preserveAspectRatio", "none");
  const most = Math.max(...series.flat().map((value) => value ?? 0), 1e-9);
  const base = document.createElementNS(SVG, "line");
  for (const [key, value] of Object.entries({ x1: 0, x2: KEPT - 1, y1: 29.5, y2: 29.5 })) base.setAttribute(key, value);
  const paths = series.map((points, index) => {
    const path = document.createElementNS(SVG, "path");
    if (index) path.setAttribute("class", "second");
    const start = KEPT - points.length;
    path.setAttribute("d", points.map((value, place) => (value === null ? "" : `${points[place - 1] == null ? "M" : "L"}${start + place} ${(29 - (28 * value) / most).toFixed(2)}`)).join(""));
    return path;
  });
  svg.replaceChildren(base, ...paths);
}

// What the model takes and gives, which operations stand before and after it, and facts.

import { element, replace } from "./element.js";

const HEAD = ["name", "type", "shape", "values"];

export function showSignature({ signature, raw, preprocess, postprocess, facts }) {
  const dim = (size) => (typeof size === "number" ? String(size) : named(size, signature.dims[size]));
  const shape = (sizes) => ["[", ...sizes.flatMap((size, place) => [place ? ", " : "", element("span", { className: "dim" }, dim(size))]), "]"];
  const range = ({ range: bounds }) => (bounds ? `${bounds[0]} to ${bounds[1]}` : "");
  const tensor = (where) => (spec) => rowOf(where, spec.name, spec.dtype, shape(spec.shape), range(spec));
  const side = element("th", { scope: "col" }, element("span", { className: "unseen" }, "in or out"));
  const head = element("tr", {}, side, ...HEAD.map((title) => element("th", { scope: "col" }, title)));
  const rows = [
    ...raw.map((spec) => rowOf("raw", spec.name, spec.kind, "", `makes ${spec.makes.join(", ")}`)),
    ...signature.inputs.map(tensor("in")),
    ...signature.outputs.map(tensor("out")),
  ];
  replace("signature", element("thead", {}, head), element("tbody", {}, ...rows));
  replace("operations", ...chainsOf("Before the model", preprocess), ...chainsOf("After it", postprocess));
  const told = Object.entries(facts).flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]);
  replace("facts", ...told);
}

const rowOf = (...cells) => element("tr", {}, ...cells.map((cell) => element("td", {}, ...[cell].flat())));

function named(name, { min, max, multiple }) {
  const sizes = min === max ? min : `${min}–${max}`;
  return `${name} ${sizes}${multiple > 1 ? `, ×${multiple}` : ""}`;
}

// A chain of declared operations as a list: `resize: short 256`.
function chainsOf(title, declared) {
  if (!declared) return [];
  const chains = Array.isArray(declared) ? [["", declared]] : Object.entries(declared);
  return chains.flatMap(([name, chain]) => [
    element("h3", {}, name ? `${title}: ${name}` : title),
    element("ol", { className: "operations" }, ...chain.flatMap(operationOf)),
  ]);
}

function operationOf(operation) {
  return Object.entries(operation).map(([name, parameters]) => {
    const lists = Object.values(parameters).filter(isListOfObjects).flat();
    const inner = lists.length ? [element("ul", {}, ...lists.map((one) => element("li", {}, told(one))))] : [];
    return element("li", {}, element("code", {}, name), ` ${told(parameters)}`, ...inner);
  });
}

const isObject = (value) => value !== null && typeof value === "object" && !Array.isArray(value);
const isListOfObjects = (value) => Array.isArray(value) && value.length > 0 && value.every(isObject);
const isNothing = (value) => value === null || (typeof value === "object" && Object.keys(value).length === 0);

// Parameters on a line: `size [16, 16], interpolation bilinear`.
function told(parameters) {
  const shown = Object.entries(parameters).filter(([, value]) => !isNothing(value) && !isListOfObjects(value));
  return shown.map(([name, value]) => `${name} ${valueOf(value)}`).join(", ");
}

function valueOf(value) {
  if (Array.isArray(value)) return `[${value.map(valueOf).join(", ")}]`;
  return isObject(value) ? `{${told(value)}}` : String(value);
}

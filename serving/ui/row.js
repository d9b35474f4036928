// A row of a table: a field for each column, and what the fields say.

import { element } from "./element.js";

export function fieldsOf(columns) {
  return columns.map((column, place) => {
    const id = `column-${place}`;
    const field = column.kind === "category" ? choiceOf(column) : numberOf(column);
    Object.assign(field, { id, name: column.name });
    return element("label", { htmlFor: id }, column.name, field);
  });
}

const isOptional = ({ missing }) => missing !== null && missing !== undefined;

function numberOf(column) {
  const bounds = Object.fromEntries(["min", "max"].filter((key) => typeof column[key] === "number").map((key) => [key, column[key]]));
  const placeholder = isOptional(column) ? `${column.missing} if empty` : [bounds.min, bounds.max].filter((one) => one !== undefined).join(" to ");
  return element("input", { type: "number", step: "any", placeholder, required: !isOptional(column), ...bounds });
}

function choiceOf(column) {
  const options = column.values.map((value) => element("option", { value: JSON.stringify(value) }, String(value)));
  const none = element("option", { value: "" }, `missing: ${column.missing}`);
  return element("select", {}, ...options, ...(isOptional(column) ? [none] : []));
}

// An object by column; what is empty is null, for which the model may declare something.
export function rowOf(pane) {
  const value = (field) => (field.value === "" ? null : field.tagName === "SELECT" ? JSON.parse(field.value) : Number(field.value));
  return Object.fromEntries([...pane.querySelectorAll("input, select")].map((field) => [field.name, value(field)]));
}

// Elements of the page, made without markup: what a server says is text, whatever it holds.

const LONGEST = 20000;

export const byId = (id) => document.getElementById(id);

export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  Object.assign(made, properties);
  made.append(...children);
  return made;
}

export function replace(id, ...children) {
  byId(id).replaceChildren(...children);
}

export function show(id, visible) {
  byId(id).hidden = !visible;
}

// A status is spoken when it changes: the same text again would be spoken again.
export function tell(id, text) {
  if (byId(id).textContent !== text) byId(id).textContent = text;
}

// Lists of numbers on one line each: a picture of numbers would have one on each line.
export const compact = (value) => JSON.stringify(value, null, 1).replace(/\[[^[\]{}"]*\]/g, (list) => list.replace(/\s+/g, " "));

// A page cannot lay out megabytes of text.
export const shortened = (text) => (text.length > LONGEST ? `${text.slice(0, LONGEST)}… (${text.length} characters)` : text);

// Elements of the page, made without markup: what a server says is text, whatever it holds.

export const byId = (id) => document.getElementById(id);

export function element(tag, properties = {}, ...children) {
  const { className, ...others } = properties;
  const made = document.createElement(tag);
  if (className) made.className = className;
  Object.assign(made, others);
  made.append(...children);
  return made;
}

export function replace(id, ...children) {
  byId(id).replaceChildren(...children);
}

export function show(id, visible) {
  byId(id).hidden = !visible;
}

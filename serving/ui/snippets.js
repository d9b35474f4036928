// The request that was sent, as lines for a shell and for Python.

const SHORT = 1500;
const NEEDS_NO_QUOTES = /^[\w./:@%+=,-]+$/;

const quoted = (text) => (NEEDS_NO_QUOTES.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);

// A body that is a file is named; a text stands there whole, unless it is long.
export function curl(request) {
  const isShort = !request.file && request.body.length <= SHORT;
  const body = isShort ? `--data-raw ${quoted(request.body)}` : `--data-binary ${quoted(`@${request.file ?? "body.json"}`)}`;
  const note = isShort || request.file ? "" : "# body.json: what was sent\n";
  return `${note}curl -H ${quoted(`Content-Type: ${request.type}`)} \\\n  ${body} \\\n  ${quoted(request.url)}`;
}

export function python(request) {
  return [
    "import json, urllib.request",
    "",
    `body = ${pythonBody(request)}`,
    `headers = {"Content-Type": ${literal(request.type)}}`,
    `request = urllib.request.Request(${literal(request.url)}, body, headers)`,
    "print(json.load(urllib.request.urlopen(request)))",
  ].join("\n");
}

function pythonBody({ file, body }) {
  if (file || body.length > SHORT) return `open(${literal(file ?? "body.json")}, "rb").read()`;
  return isJson(body) ? `json.dumps(${pythonOf(body)}).encode()` : `${literal(body)}.encode()`;
}

function isJson(text) {
  try {
    JSON.parse(text);
    return true;
  } catch {
    return false;
  }
}

// JSON's text as Python's: numbers stay as they are written, however long.
function pythonOf(text) {
  const words = { true: "True", false: "False", null: "None" };
  return text.trim().replace(/"(?:[^"\\]|\\.)*"|\b(?:true|false|null)\b/g, (found) => words[found] ?? literal(JSON.parse(found)));
}

// A text of Python's. JSON's escapes are Python's, but for characters beyond 16 bits, which JSON writes as two.
function literal(text) {
  const escaped = Array.from(text, (character) => {
    const code = character.codePointAt(0);
    if (code > 0xffff) return `\\U${code.toString(16).padStart(8, "0")}`;
    if (code > 0x7e) return `\\u${code.toString(16).padStart(4, "0")}`;
    return JSON.stringify(character).slice(1, -1);
  });
  return `"${escaped.join("")}"`;
}

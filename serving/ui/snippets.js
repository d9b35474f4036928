// The request that was sent, as lines for a shell and for Python.

const SHORT = 1500;

const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

// A body that is a file is named; a text stands there whole, unless it is long.
export function curl(request) {
  if (request.file) return `curl -H ${quoted(`Content-Type: ${request.type}`)} --data-binary @${quoted(request.file)} ${quoted(request.url)}`;
  const isShort = request.body.length <= SHORT;
  const body = isShort ? `-d ${quoted(request.body)}` : "--data-binary @body.json";
  return `${isShort ? "" : "# body.json: what was sent\n"}curl -H ${quoted(`Content-Type: ${request.type}`)} ${body} ${quoted(request.url)}`;
}

const literal = (text) => JSON.stringify(text).replace(/[\u007f-\uffff]/g, (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`);

export function python(request) {
  const isShort = !request.file && request.body.length <= SHORT;
  const body = isShort ? `${pythonText(request.body)}.encode()` : `open(${literal(request.file ?? "body.json")}, "rb").read()`;
  return [
    "import json, urllib.request",
    "",
    `body = ${body}`,
    `request = urllib.request.Request(${literal(request.url)}, body, {"Content-Type": ${literal(request.type)}})`,
    "print(json.load(urllib.request.urlopen(request)))",
  ].join("\n");
}

// JSON's text escapes are Python's, but for characters beyond 16 bits, which JSON writes as two.
function pythonText(text) {
  const escaped = Array.from(text, (character) => {
    const code = character.codePointAt(0);
    if (code > 0xffff) return `\\U${code.toString(16).padStart(8, "0")}`;
    return literal(character).slice(1, -1);
  });
  return `"${escaped.join("")}"`;
}

"""What the OpenAPI document says is asked for, and held to: `python -m tests.fuzz.fuzz_openapi RUNS FOLDER`.

schemathesis makes requests out of the document, good ones and bad ones, and compares every answer with it. FOLDER gets
openapi.json (the numbers) and openapi.txt (all that schemathesis says).
"""

import json
import re
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

from tests.fuzz.fuzz_http import FLAGS, MOST_GROWTH_KIB, tell
from tests.fuzz.models import MODELS, make_repository
from tests.fuzz.seen import Seen
from tests.fuzz.server import server

CHECKS = (
    *("not_a_server_error", "status_code_conformance", "content_type_conformance", "response_schema_conformance"),
    "response_headers_conformance",
)
MOST_MINUTES = 20
KNOWN = {
    "model": [*MODELS, "spare"],
    "name": ["spare"],  # the others are asked meanwhile
    "version": ["1", "2", "stable"],
    "label": ["stable", "default"],
}
"""Names that are there: anything else is soon told from them."""


def with_known_names(document: dict[str, Any]) -> dict[str, Any]:
    """The document, so that its paths are asked with names that are there, too, and without `prefixItems` in answers.

    schemathesis 4.32 rewrites `prefixItems` inside of `anyOf` to a list of `items`, which it then finds to be no schema.
    """
    for item in document["paths"].values():
        for operation in item.values():
            for parameter in operation.get("parameters", []):
                if parameter["in"] == "path" and parameter["name"] in KNOWN:
                    parameter["schema"] = {"anyOf": [{"enum": KNOWN[parameter["name"]]}, parameter["schema"]]}
            _drop(operation.get("responses", {}), "prefixItems")
    return document


def _drop(value: Any, key: str) -> None:
    if isinstance(value, dict):
        value.pop(key, None)
    for child in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _drop(child, key)


def main(runs: int, folder: Path) -> None:
    """Asks every operation of the document about as often."""
    folder.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    seen = Seen("openapi")
    with server(make_repository(folder), folder / "openapi-server.log", *FLAGS) as target:
        with urllib.request.urlopen(target.url + "/openapi.json") as answer:
            document = with_known_names(json.load(answer))
        made = folder / "openapi-document.json"
        made.write_text(json.dumps(document))
        operations = sum(len(item) for item in document["paths"].values())
        command = [sys.executable, "-m", "schemathesis.cli", "run", made.name, "--url", target.url, "--checks", ",".join(CHECKS)]
        command += ["--max-examples", str(max(1, runs // operations)), "--phases", "examples,coverage,fuzzing", "--no-color"]
        command += ["--suppress-health-check", "all", "--continue-on-failure", "--warnings", "off", "--seed", "1"]
        seen.warm_kib = target.resident_kib()
        done = subprocess.run(command, capture_output=True, text=True, timeout=MOST_MINUTES * 60, check=False, cwd=folder)
        end_kib = target.resident_kib()
    (folder / "openapi.txt").write_text(done.stdout + done.stderr)
    found = re.search(r"^\s*(\d+) generated", done.stdout, re.MULTILINE)
    seen.inputs = int(found[1]) if found else 0
    if done.returncode:
        titles = re.findall(r"^- (?:ST\d+ )?(.*)$", done.stdout, re.MULTILINE)
        seen.findings += [f"see openapi.txt: {title}" for title in dict.fromkeys(titles)] or ["see openapi.txt"]
    seen.end(folder, time.perf_counter() - began, end_kib, MOST_GROWTH_KIB)
    tell(seen)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))

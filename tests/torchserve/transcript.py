"""Transcripts: answers in a form that two servers, and two runs, can be compared by."""

import base64
import hashlib
import io
import json
import re
import zipfile
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from time import sleep
from typing import Any

from tests.torchserve.client import usual_phrase
from tests.torchserve.servers import Running
from tests.torchserve.shapes import Answer, Ask, Gather, Later, Pause, Scenario, Settle

FOLDER = Path(__file__).with_name("transcripts")
LONGEST = 4000
"""Of a longer body only the length and the hash are kept."""
USUAL = {
    "x-request-id": "<uuid>",
    "pragma": "no-cache",
    "cache-control": "no-cache; no-store, must-revalidate, private",
    "expires": "Thu, 01 Jan 1970 00:00:00 UTC",
}
"""Headers of every answer, beside `connection`, which is `close` from status 400 on; only others are kept."""
_UUID = re.compile(r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b")
_TIME = re.compile(r"\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
_OWN_ID = re.compile(r"[0-9a-f]{12}-\d+")
_KEY = re.compile(r"(Bearer +)[\w-]{8,}")
_WORKER = re.compile(r'("(?:memoryUsage|pid)": )-?\d+')
_COUNTED = re.compile(r"^(Requests[245]XX|ts_inference_requests_total|CallsSeen|WorkTime|InputSize|Share|Anything)\b")
_HOST = re.compile(r'\b([Hh]ostname=")[^"]*"')


def take(scenario: Scenario, server: Running) -> list[dict[str, Any]]:
    """All requests of a scenario asked of a server, with its answers in the order of the requests."""
    found: dict[str, list[Answer]] = {}
    later: list[tuple[Ask, Future[Answer]]] = []
    with ThreadPoolExecutor(64) as threads:
        for step in scenario.steps:
            if isinstance(step, Settle):
                server.settle(step)
            elif isinstance(step, Later):
                later.append((step.ask, threads.submit(server.ask, step.ask)))
                sleep(step.pause_s)
            elif isinstance(step, Pause):
                sleep(step.seconds)
            elif isinstance(step, Gather):
                found |= {ask.name: [future.result()] for ask, future in later}
                later.clear()
            else:
                found[step.name] = list(threads.map(server.ask, [step] * step.times))
    return [told(ask, found[ask.name], server) for ask in scenario.asks()]


def told(ask: Ask, answers: list[Answer], server: Running) -> dict[str, Any]:
    """One request with its answer, or with all where it is sent several times."""
    records = sorted((_settled(record(answer, server.values), ask.either) for answer in answers), key=json.dumps)
    return {"request": ask.name} | (records[0] if ask.times == 1 else {"answers": records})


def _settled(kept: dict[str, Any], either: tuple[int, ...]) -> dict[str, Any]:
    """One word for statuses of which either may come."""
    if kept["status"] not in either:
        return kept
    word = " or ".join(map(str, either))
    if len({status // 100 for status in either}) > 1:
        return {"status": word}
    return {**kept, "status": word, "body": kept["body"].replace(f'"code": {kept["status"]}', f'"code": {word}')}


def record(answer: Answer, values: Mapping[str, str]) -> dict[str, Any]:
    """An answer without what differs from run to run."""
    if answer.status is None:
        return {"status": None} | ({"connection": answer.phrase} if answer.phrase else {})
    headers = {name.lower(): _plain(value, values) for name, value in answer.headers}
    headers = {name: "<id>" if _OWN_ID.fullmatch(value) else value for name, value in headers.items()}
    body = _body(answer.body, headers.get("content-type", ""), values)
    length = headers.pop("content-length", None)
    kept: dict[str, Any] = {"status": answer.status, "headers": _unusual(headers, answer.status), "body": body}
    if length is not None and answer.body and int(length) != len(answer.body):
        kept["content-length"] = int(length)
    if answer.phrase not in {"", usual_phrase(answer.status)}:
        kept["phrase"] = answer.phrase
    if answer.closed != (headers.get("connection") == "close"):
        kept["closed"] = answer.closed
    if answer.continued:
        kept["continued"] = True
    return kept


def _unusual(headers: Mapping[str, str], status: int) -> dict[str, str | None]:
    """The headers that are not those of every answer; None where one of those is missing."""
    usual = USUAL | {"connection": "close" if status >= 400 else "keep-alive"}
    unusual: dict[str, str | None] = {name: value for name, value in headers.items() if usual.get(name) != value}
    return unusual | {name: None for name in usual if name not in headers}


def _body(body: bytes, content_type: str, values: Mapping[str, str]) -> Any:
    if body.startswith(b"PK\x03\x04"):
        names = zipfile.ZipFile(io.BytesIO(body)).namelist()
        return {"zip": sorted(name.partition("/")[2] for name in names if "data" in name.rpartition("/")[2])}
    if len(body) > LONGEST and b"# HELP" not in body and b'"openapi"' not in body[:100]:
        return {"length": len(body), "sha256": hashlib.sha256(body).hexdigest()}
    try:
        text = body.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(body).decode()}
    if '"openapi"' in text[:100]:
        return {"openapi": _operations(json.loads(text))}
    if "version=0.0.4" in content_type:
        return {"metrics": _metrics(text)}
    return _plain(text, values)


def _plain(text: str, values: Mapping[str, str]) -> str:
    for name, value in sorted(values.items(), key=lambda item: -len(item[1])):
        pattern, place = (re.escape(value), "<directory>") if name == "directory" else (rf"(?<=:){value}\b", f"<{name} port>")
        text = re.sub(pattern, place, text)
    text = _UUID.sub("<uuid>", text)
    text = _TIME.sub("<time>", text)
    text = _KEY.sub(r"\1<key>", text)
    return _WORKER.sub(r"\1<number>", text)


def _operations(document: Mapping[str, Any]) -> dict[str, Any]:
    """Of an API's description only the facts: paths, methods, the operations' names."""
    operations = {
        path: {method: told.get("operationId") for method, told in methods.items() if method in _METHODS}
        for path, methods in document["paths"].items()
    }
    return {"version": document["openapi"], "paths": operations}


_METHODS = {"get", "put", "post", "delete", "options", "head", "patch", "trace"}


def _metrics(text: str) -> list[str]:
    """Lines in the order of their names; measured values are replaced."""
    lines = []
    for line in text.splitlines():
        if line.startswith("#") or _COUNTED.match(line):
            lines.append(_HOST.sub(r'\1<host>"', line))
        elif line:
            name, _, _ = line.rpartition(" ")
            lines.append(_HOST.sub(r'\1<host>"', f"{name} <number>"))
    return sorted(lines)


def path_of(scenario: str) -> Path:
    """Where the real server's answers are kept."""
    return FOLDER / f"{scenario}.json"


def read(scenario: str) -> list[dict[str, Any]]:
    """The real server's answers."""
    return json.loads(path_of(scenario).read_text())


def write(scenario: str, answers: list[dict[str, Any]]) -> None:
    """Keeps the real server's answers, one request a line."""
    lines = ",\n".join(json.dumps(answer, ensure_ascii=False) for answer in answers)
    path_of(scenario).write_text(f"[\n{lines}\n]\n")

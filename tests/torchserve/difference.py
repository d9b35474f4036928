"""A known difference, and the answers that this server gives where it has one."""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Answer = dict[str, Any]
Change = Callable[[Answer], Answer] | Mapping[str, Any]
_SERVERS_OWN = {"url_path", "explain", "describe"}


@dataclass(frozen=True, slots=True)
class Difference:
    """What is otherwise in the answers to some requests.

    `where` is a regular expression that the whole of `scenario: request` matches; `ours` makes this server's answer of the kept
    one, or says which of its parts are others.
    """

    reason: str
    where: str
    ours: Change

    def is_about(self, scenario: str, request: str) -> bool:
        """Whether a request is one of these."""
        return re.fullmatch(self.where, f"{scenario}: {request}", re.DOTALL) is not None

    def expected(self, kept: Answer) -> Answer:
        """The answer that this server gives."""
        return self.ours(kept) if callable(self.ours) else {**kept, **self.ours}


def error(status: int, kind: str, message: str) -> Answer:
    """An error of TorchServe's shape."""
    body = as_json({"code": status, "type": kind, "message": message})
    return {"status": status, "headers": {"content-type": "application/json"}, "body": body}


def bad(message: str) -> Answer:
    """The answer to a wrong request."""
    return error(400, "BadRequestException", message)


def invalid(message: str) -> Answer:
    """The answer where an archive, or its registration, is not one that can be run."""
    return error(400, "InvalidModelException", message)


def no_such(model: str) -> Answer:
    """The answer where a model is not registered."""
    return error(404, "ModelNotFoundException", f"Model not found: {model}")


def no_path() -> Answer:
    """The answer to an unknown path."""
    return error(404, "ResourceNotFoundException", "Requested resource is not found, please refer to API document.")


def failed(message: str) -> Answer:
    """The answer where this server, or a handler, failed."""
    return error(500, "InternalServerException", message)


def as_json(value: Any) -> str:
    """As TorchServe writes it."""
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def headers(**changes: str | None) -> Callable[[Answer], Answer]:
    """Other headers; "usual" stands for one as on every answer."""

    def changed(kept: Answer) -> Answer:
        merged = {**kept["headers"], **changes}
        return {**kept, "headers": {name: value for name, value in merged.items() if value != "usual"}}

    return changed


def replaced(*pairs: tuple[str, str]) -> Callable[[Answer], Answer]:
    """Other words in the body."""

    def changed(kept: Answer) -> Answer:
        body = kept["body"]
        for old, new in pairs:
            body = body.replace(old, new)
        return {**kept, "body": body}

    return changed


def longer(more: str) -> Callable[[Answer], Answer]:
    """The message of an error says more."""

    def changed(kept: Answer) -> Answer:
        body = json.loads(kept["body"])
        return {**kept, "body": as_json({**body, "message": f"{body['message']} {more}"})}

    return changed


def unlisted(*names: str) -> Callable[[Answer], Answer]:
    """A list of models without these."""

    def changed(kept: Answer) -> Answer:
        models = [model for model in json.loads(kept["body"])["models"] if model["modelName"] not in names]
        return {**kept, "body": as_json({"models": models})}

    return changed


def titled(kept: Answer) -> Answer:
    """What the echo handler says of its headers, with each word of a name capitalized."""
    if not isinstance(kept.get("body"), str) or '"headers": {' not in kept["body"]:
        return kept
    body = json.loads(kept["body"])
    named = {_title(name) if isinstance(value, str) else name: value for name, value in body["headers"].items()}
    return {**kept, "body": json.dumps({**body, "headers": dict(sorted(named.items()))}, indent=2)}


def _title(name: str) -> str:
    return name if name in _SERVERS_OWN else "-".join(part.capitalize() for part in name.split("-"))


def echoed(inputs: Mapping[str, Any], length: int, content_type: str, inner: str = "") -> Answer:
    """What the echo handler says of a body of so many bytes; `inner` is the type of its inputs."""
    sent = {
        "Content-Length": str(length),
        "Content-Type": content_type,
        "Host": "torchserve.test",
        "explain": "False",
        "url_path": "",
    }
    named = {**sent, **{name: {"content-type": inner} for name in inputs}}
    body = {"model": "echo", "version": "1.0", "inputs": inputs, "headers": dict(sorted(named.items()))}
    return {"status": 200, "headers": {}, "body": json.dumps(body, indent=2)}


def native(status: int, body: str) -> Callable[[Answer], Answer]:
    """An answer of this server's own API; `{call}` in it is the request's method and target."""
    told = {"content-type": "application/json", "x-request-id": "<id>"}
    missing = dict.fromkeys(("pragma", "cache-control", "expires", "connection"))

    def changed(kept: Answer) -> Answer:
        call = kept["request"].partition(" ")[2].partition(" (")[0]
        return {**kept, "status": status, "headers": {**told, **missing}, "body": body.replace("{call}", call)}

    return changed

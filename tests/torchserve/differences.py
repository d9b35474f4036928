"""Where this server answers otherwise than TorchServe 0.12.0, and why: this is all, since the comparison allows nothing else."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Difference:
    """What is otherwise in the answers to some requests.

    `where` is a regular expression that the whole of `scenario: request` matches. `ours` replaces parts of the kept answer; of
    its headers, only those named, and None stands for one that is missing.
    """

    reason: str
    where: str
    ours: Mapping[str, Any] = field(default_factory=dict)

    def expected(self, kept: Mapping[str, Any]) -> dict[str, Any]:
        """The answer that this server gives."""
        changed = {**kept, **self.ours}
        if "headers" in self.ours:
            changed["headers"] = {**kept.get("headers", {}), **self.ours["headers"]}
        return {name: value for name, value in changed.items() if value is not ...}

    def is_about(self, scenario: str, request: str) -> bool:
        """Whether a request is one of these."""
        return re.fullmatch(self.where, f"{scenario}: {request}", re.DOTALL) is not None


def error(status: int, kind: str, message: str) -> dict[str, Any]:
    """An error of TorchServe's shape."""
    body = json.dumps({"code": status, "type": kind, "message": message}, indent=2, ensure_ascii=False) + "\n"
    return {"status": status, "body": body}


ADDED_HEADERS = {
    "server": "granian, which speaks HTTP for this server, tells its name",
    "date": "RFC 9110 asks a server with a clock to send it",
}
"""Headers of every answer that TorchServe does not send, and why."""
DIFFERENCES: tuple[Difference, ...] = ()

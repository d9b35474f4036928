"""One request and its answer on a connection of its own, byte for byte as a load sends it; every failure said in words."""

import contextlib
import http.client
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from bench import payloads
from bench.errors import NotAsked
from bench.payloads import Payload, host_text

_MOST_SAID = 300
"""Characters of a server's own words that a message repeats."""
_PART_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Answer:
    """Status, headers (names in lower case) and content."""

    status: int
    headers: Mapping[str, str]
    content: bytes

    @property
    def ok(self) -> bool:
        """Whether it is a success."""
        return 200 <= self.status < 300

    def json(self) -> Any:
        """The content as JSON; None where it is none."""
        try:
            return orjson.loads(self.content)
        except orjson.JSONDecodeError:
            return None

    def said(self) -> str:
        """The server's own words, cut where they are long."""
        found, text = self.json(), self.content.decode(errors="replace")
        if isinstance(found, dict):
            text = next((str(found[key]) for key in ("error", "message", "detail") if found.get(key)), text)
        elif "html" in self.headers.get("content-type", ""):
            text = "an HTML page"
        text = " ".join(text.split()) or "no reason given"
        return text if len(text) <= _MOST_SAID else f"{text[:_MOST_SAID]}…"

    def refusal(self, url: str) -> NotAsked:
        """The error for an answer that is no success."""
        hint = "; give --header 'Authorization: …'" if self.status in {401, 403} else ""
        return NotAsked(f"{url} answered {self.status}: {self.said()}{hint}")


def exchange(host: str, port: int, payload: Payload, timeout_s: float) -> Answer:
    """The answer, of whatever status.

    Raises:
        NotAsked: nobody answers, not in time, or not in HTTP.
    """
    where, sent = f"http://{host_text(host, port)}", payloads.request(payload, host, port).content
    try:
        with socket.create_connection((host, port), timeout_s) as connection:
            return _answer(connection, payload.method, sent, time.monotonic() + timeout_s)
    except TimeoutError as cause:
        raise NotAsked(f"{where} did not answer {payload.method} {payload.path} within {timeout_s:g} s") from cause
    except ConnectionRefusedError as cause:
        raise NotAsked(f"{where} refuses connections: does the server run, and listen there?") from cause
    except (http.client.RemoteDisconnected, http.client.IncompleteRead, ConnectionError) as cause:
        raise NotAsked(f"{where} closed the connection before it had answered {payload.method} {payload.path}") from cause
    except http.client.HTTPException as cause:
        raise NotAsked(f"{where} does not speak HTTP; its answer begins with {str(cause)[:80]!r}") from cause
    except socket.gaierror as cause:
        raise NotAsked(f"no host is called {host!r} ({cause.strerror}): is --url right?") from cause
    except OSError as cause:
        raise NotAsked(f"{where} cannot be reached: {cause.strerror or cause}") from cause


def _answer(connection: socket.socket, method: str, sent: bytes, end_s: float) -> Answer:
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it would not read all of it, and may have said why
        connection.sendall(sent)
    with http.client.HTTPResponse(connection, method=method) as response:
        response.begin()
        parts = []
        while part := response.read1(_PART_BYTES):
            parts.append(part)
            if time.monotonic() > end_s:  # an answer without an end
                raise TimeoutError
        if response.length:
            raise http.client.IncompleteRead(b"", response.length)
        headers = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, headers, b"".join(parts))

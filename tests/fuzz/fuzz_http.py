"""Hostile bytes to a real server process: `python -m tests.fuzz.fuzz_http RUNS FOLDER [SEED]`.

Four kinds of hostility, one after another. After each few hundred inputs a good request must get its good answer. FOLDER gets
http-*.json with the numbers, and each input that got a 500, or no answer where one is due.
"""

import asyncio
import contextlib
import random
import re
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.fuzz.models import make_repository
from tests.fuzz.mutate import SEGMENTS, VALUES, mutated
from tests.fuzz.seeds import KINDS
from tests.fuzz.seen import Seen
from tests.fuzz.server import Server, server
from tests.fuzz.wire import Wire

CLIENTS = 16
ANSWER_S = 10.0
"""A whole request must have its answer by then."""
QUIET_S = 0.05
"""What is no whole request is given so long for an answer."""
ROUND = 500
WARM = 0.3
MOST_GROWTH_KIB = 32 << 10
MOST_CONNECTIONS = 128
HEADER_TIMEOUT_S = 2
FLAGS = (
    *(
        "--repository-api",
        "on",
        "--max-body-bytes",
        "131072",
        "--header-timeout-s",
        str(HEADER_TIMEOUT_S),
        "--body-timeout-s",
        "2",
    ),
    *("--max-connections", str(MOST_CONNECTIONS), "--log-format", "json"),
)

BODY = b'{"inputs":{"x":[[0.5,1,-2,4]]}}'
PROBE = Wire(target="/predictions/mlp", headers=(("Content-Type", "application/json"),), body=BODY).encode()
PROBED = b'{"model_name":"mlp","model_version":"1","outputs":{"logits":[[0.5,1.0,-2.0,4.0]]}}'


class Broken(Exception):
    """The server did what it must not."""


async def ask(port: int, data: bytes, answers: int, wait_s: float) -> list[tuple[int, bytes]]:
    """The answers to some bytes, on a connection of their own: status and body. Fewer, if it is closed or nothing more comes."""
    found: list[tuple[int, bytes]] = []
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 22)
    try:
        writer.write(data)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            async with asyncio.timeout(wait_s):
                await writer.drain()
                while len(found) < answers:
                    found += await _answer(reader, is_head=data.startswith(b"HEAD"))
    except TimeoutError:
        pass
    finally:
        writer.transport.abort()
    return found


async def _answer(reader: asyncio.StreamReader, *, is_head: bool) -> list[tuple[int, bytes]]:
    """One answer; none, if it is only an interim one."""
    head = await reader.readuntil(b"\r\n\r\n")
    matched = re.match(rb"HTTP/1\.[01] (\d{3})[ \r]", head)
    if matched is None:
        raise Broken(f"it answers {head[:80]!r}")
    status = int(matched[1])
    if status < 200:
        return []
    length = re.search(rb"(?i)\r\ncontent-length: (\d+)\r\n", head)
    body = b""
    if length is not None and not is_head and status not in {204, 304}:
        body = await reader.readexactly(int(length[1]))
    elif re.search(rb"(?i)\r\ntransfer-encoding: chunked\r\n", head) and not is_head:
        while size := int(await reader.readuntil(b"\r\n"), 16):
            body += (await reader.readexactly(size + 2))[:-2]
        await reader.readuntil(b"\r\n")
    return [(status, body)]


def requests(rng: random.Random) -> tuple[bytes, int]:
    """A whole request, damaged inside: one answer is due."""
    pool = _pool()
    wire = Wire.parse(mutated(rng.choice(pool), rng.getrandbits(40)))
    if "/repository/" in wire.path and "/spare/" not in wire.path:
        wire = Wire("GET", "/v2/models")  # models that others ask are not to be unloaded
    kept = tuple((name, value) for name, value in wire.headers if name.lower() not in _FRAMING)
    method = wire.method if re.fullmatch("[A-Z]{1,10}", wire.method) and wire.method != "CONNECT" else "POST"
    target = "".join(c for c in wire.target if "!" <= c <= "~") or "/"
    target = target if target.startswith("/") and len(target) < 4000 else "/" + target[:4000]
    return Wire(method, target, kept, wire.body).encode(), 1


_FRAMING = {"transfer-encoding", "expect", "connection", "upgrade", "content-length"}


def _pool() -> list[bytes]:
    if not _POOL:
        _POOL.extend(wire.encode() for make in KINDS.values() for wire in make(1))
    return _POOL


_POOL: list[bytes] = []


def heads(rng: random.Random) -> tuple[bytes, int]:
    """A head that is not one: lengths, encodings, names, methods and paths that contradict each other or nothing at all."""
    path = _path(rng) if rng.random() < 0.3 else rng.choice(_PATHS)
    method, version = _mostly("POST", _METHODS, rng), _mostly("HTTP/1.1", _VERSIONS, rng)
    body = rng.choice((BODY, BODY, _CHUNKED, _CHUNKED, b"", _chunks(rng), rng.randbytes(20)))
    lines = [f"{method} {path} {version}", _mostly("Host: a", _HOSTS, rng)]
    lines.append("Transfer-Encoding: chunked" if body[-1:] == b"\n" else f"Content-Length: {len(body)}")
    if rng.random() < 0.5:
        lines[rng.choice((2, 3)) :] = [_framing(rng) for _ in range(rng.choice((1, 1, 2)))]
    lines += [_line(rng) for _ in range(rng.choice((0, 0, 0, 1, 2)))]
    if rng.random() < 0.05:
        lines += [f"x-{number}: {number}" for number in range(rng.choice((90, 128, 1000)))]
    end = _mostly("\r\n\r\n", ("\n\n", "\r\n", "\r\r", "\n\r\n"), rng)
    return "\r\n".join(lines).encode("utf-8", "surrogateescape") + end.encode() + body, 8


_CHUNKED = b"1f\r\n" + BODY + b"\r\n0\r\n\r\n"
_PATHS = ("/predictions/mlp", "/v2/models/mlp/infer", "/v2/models", "/openapi.json")
_METHODS = ("GET", "PUT", "DELETE", "HEAD", "OPTIONS", "TRACE", "CONNECT", "post", "PRI", "A" * 3000, "\x01", "")
_VERSIONS = ("HTTP/1.0", "HTTP/0.9", "HTTP/2.0", "HTTP/9.9", "http/1.1", "", "HTTP/1.1 x")
_HOSTS = ("Host: a\r\nHost: b", "Host: [::1", "Host:", "X: y")
_PARTS = (*SEGMENTS, "\u20ac", "\udcff", "%E2%82%AC", "%c0%af", "//", "?", "#", "http://a/", "a b", "\\", "<", "docs/assets")
_LENGTHS = (str(len(BODY)), "0", "5", "999", "131073", "-1", "+5", "5, 5", "5, 6", "0x1f", " ", "1e2", "9" * 30)
_CODINGS = (
    "chunked",
    "chunked",
    "Chunked",
    "gzip, chunked",
    "chunked, chunked",
    "chunked, gzip",
    "identity",
    "x",
    "",
    "\x0bchunked",
)
_FRAMINGS = (
    "Content-Length: {length}",
    "content-length:{length}",
    "Content-Length : {length}",
    "Transfer-Encoding: {coding}",
    "Transfer-Encoding: {coding}\r\nContent-Length: {length}",
    "Inference-Header-Content-Length: {length}",
    "Content-Encoding: gzip",
    "Expect: 100-continue",
    "Connection: close",
    "Connection: upgrade",
    "Connection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
    "Connection: upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__",
)
_FIELDS = (
    "accept",
    "content-type",
    "x-request-id",
    "accept-encoding",
    "range",
    "origin",
    "a",
    "",
    "a b",
    "\u20ac",
    "a\x00b",
    "(",
)
_CHUNK_SIZES = (
    b"1f",
    b"1F",
    b"0",
    b"ffffffffffffffff",
    b"ffffffff",
    b"-1",
    b"zz",
    b"",
    b"1f;" + b"a" * 5000,
    b"1f ",
    b"20",
    b"1",
)


def _mostly(usual: str, others: tuple[str, ...], rng: random.Random) -> str:
    return usual if rng.random() < 0.85 else rng.choice(others)


def _path(rng: random.Random) -> str:
    path = "/" + "/".join(rng.choice(_PARTS) for _ in range(rng.choice((1, 2, 3, 4, 6))))
    return path + rng.choice(("", "", "?\u20ac", "?\udcfc", f"?{rng.choice(VALUES)}", "a" * 30_000, "?" + "b&" * 5000, "#x"))


def _framing(rng: random.Random) -> str:
    return rng.choice(_FRAMINGS).format(length=rng.choice(_LENGTHS), coding=rng.choice(_CODINGS))


def _line(rng: random.Random) -> str:
    value = rng.choice((*VALUES, "\x00", "\u20ac", "\udcff", "a\r\n b", "bytes=0-0,9-1", "a" * 20_000, "\x7f"))
    return f"{rng.choice(_FIELDS)}{rng.choice((':', ': ', ' : ', '', ':::'))}{value}"


def _chunks(rng: random.Random) -> bytes:
    found = b""
    for _ in range(rng.choice((1, 1, 2, 5))):
        found += rng.choice(_CHUNK_SIZES) + rng.choice((b"\r\n", b"\r\n", b"\n", b""))
        found += rng.choice((BODY, b"x", b"")) + rng.choice((b"\r\n", b"\r\n", b""))
    return found + rng.choice((b"0\r\n\r\n", b"0\r\na: b\r\n\r\n", b"0\r\n" + b"t: u\r\n" * 2000 + b"\r\n", b"", b"0"))


def garbage(rng: random.Random) -> tuple[bytes, int]:
    """Bytes: random ones, requests with some bytes changed anywhere, cut ones, other protocols' first words."""
    choice = rng.randrange(4)
    if choice == 0:
        return rng.randbytes(rng.choice((1, 10, 100, 5000))), 8
    if choice == 1:
        hello = (
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"SSH-2.0-x\r\n",
            b"*1\r\n$4\r\nPING\r\n",
            b"\0" * 64,
        )
        return rng.choice(hello) + rng.randbytes(rng.choice((0, 30))), 8
    data = bytearray(rng.choice(_pool()))
    if choice == 2:
        return bytes(data[: rng.randrange(len(data))]), 8
    for _ in range(rng.choice((1, 2, 5, 20))):
        data[rng.randrange(len(data))] = rng.choice((rng.randrange(256), 0, 13, 10, 32, 58, 255))
    return bytes(data), 8


def pipelines(rng: random.Random) -> tuple[bytes, int]:
    """Several whole requests in one piece: as many answers, in their order."""
    count = rng.randrange(2, 9)
    good = [Wire(target="/v2/models/mlp/infer", headers=(), body=_numbered(number)).encode() for number in range(count)]
    return b"".join(good), count


def _numbered(number: int) -> bytes:
    return b'{"id":"%d","inputs":[{"name":"x","shape":[1,4],"datatype":"FP32","data":[0,0,0,0]}]}' % number


def _require_requests(answers: list[tuple[int, bytes]], due: int) -> None:
    if len(answers) != due:
        raise Broken(f"{len(answers)} answer(s), {due} due")


def _require_pipelines(answers: list[tuple[int, bytes]], due: int) -> None:
    _require_requests(answers, due)
    for number, (status, body) in enumerate(answers):
        if status != 200 or b'"id":"%d"' % number not in body:
            raise Broken(f"answer {number} of {due} is {status} {body[:80]!r}")


def _require_nothing(answers: list[tuple[int, bytes]], due: int) -> None:
    del answers, due


Make = Callable[[random.Random], tuple[bytes, int]]
Check = Callable[[list[tuple[int, bytes]], int], None]
KINDS_OF_HOSTILITY: dict[str, tuple[Make, Check, float, float]] = {
    "http-requests": (requests, _require_requests, ANSWER_S, 0.5),
    "http-heads": (heads, _require_nothing, QUIET_S, 0.3),
    "http-garbage": (garbage, _require_nothing, QUIET_S, 0.15),
    "http-pipelines": (pipelines, _require_pipelines, ANSWER_S, 0.05),
}
"""Name -> what makes an input and the number of its answers, what must hold of them, how long they may take, its share of all."""


class Run:
    """Sends inputs of one kind to a server, several at a time."""

    def __init__(self, name: str, target: Server, folder: Path, seed: int) -> None:
        self.seen = Seen(name)
        self._make, self._check, self._wait_s, _ = KINDS_OF_HOSTILITY[name]
        self._target = target
        self._folder = folder
        self._rng = random.Random(seed)

    async def send(self, count: int) -> None:
        """So many inputs, one after another."""
        for _ in range(count):
            data, due = self._make(self._rng)
            began = time.perf_counter()
            try:
                await self._ask(data, due)
            except (Broken, OSError) as error:
                self.seen.broke(data, error, re.sub(r"id [0-9a-f-]+|\d+", "N", str(error)), self._folder)
            took_s = time.perf_counter() - began
            self.seen.took(data, took_s if self._wait_s == ANSWER_S else 0.0, self._folder)

    async def _ask(self, data: bytes, due: int) -> None:
        answers = await ask(self._target.port, data, due, self._wait_s)
        failed = next((answer for answer in answers if answer[0] >= 500 and answer[0] not in {503, 504}), None)
        if failed is not None:
            raise Broken(f"{failed[0]} {failed[1][:120]!r}")
        self._check(answers, due)
        self.seen.taken += any(status < 300 for status, _ in answers)


async def fuzz(name: str, runs: int, target: Server, folder: Path, seed: int) -> Seen:
    """Sends so many inputs of one kind; after each few hundred a good request must get its good answer. Raises Broken."""
    run, began = Run(name, target, folder, seed), time.perf_counter()
    seen = run.seen
    while seen.inputs < runs:
        each = -(-min(ROUND, runs - seen.inputs) // CLIENTS)
        await asyncio.gather(*(run.send(each) for _ in range(CLIENTS)))
        await probe(target, ANSWER_S)
        if not seen.warm_kib and seen.inputs >= runs * WARM:
            seen.warm_kib = target.resident_kib()
    seen.end(folder, time.perf_counter() - began, target.resident_kib(), MOST_GROWTH_KIB)
    return seen


async def probe(target: Server, wait_s: float) -> None:
    """A good request gets its good answer. Raises Broken."""
    answers = await ask(target.port, PROBE, 1, wait_s)
    if answers != [(200, PROBED)]:
        raise Broken(f"a good request got {answers}")


async def hold_slowly(target: Server, folder: Path) -> Seen:
    """More connections than are let in, each sending a byte now and then: others are answered as soon as these are cut off."""
    seen, began = Seen("http-slow"), time.perf_counter()
    seen.warm_kib = target.resident_kib()
    held = []
    for number in range(MOST_CONNECTIONS + MOST_CONNECTIONS // 2):
        connection = socket.create_connection(("127.0.0.1", target.port))
        connection.settimeout(0)
        start = (b"P", PROBE[:40], PROBE[: -len(BODY)], PROBE[:-1], b"")[number % 5]
        connection.send(start)
        held.append(connection)
        seen.inputs += 1
    try:
        for _ in range(4):
            await asyncio.sleep(HEADER_TIMEOUT_S / 4)
            for connection in held:
                with contextlib.suppress(OSError):
                    connection.send(b" ")
        try:
            await probe(target, ANSWER_S)
        except (Broken, OSError) as error:
            seen.findings.append(f"behind {len(held)} slow connections: {error}")
    finally:
        for connection in held:
            connection.close()
    await probe(target, ANSWER_S)
    seen.end(folder, time.perf_counter() - began, target.resident_kib(), MOST_GROWTH_KIB)
    return seen


def main(runs: int, folder: Path, seed: int) -> None:
    """Every kind, against one server."""
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "http-server.log"
    with server(make_repository(folder), log, *FLAGS) as target:
        for number, (name, (*_, share)) in enumerate(KINDS_OF_HOSTILITY.items()):
            tell(asyncio.run(fuzz(name, max(1, int(runs * share)), target, folder, seed + number)))
        seen = asyncio.run(hold_slowly(target, folder))
        seen.findings += [line[:300] for line in log.read_text().splitlines() if '"level":"ERROR"' in line][:5]
        seen.write(folder)
        tell(seen)


def tell(seen: Seen) -> None:
    """One line for who waits."""
    print(f"{seen.target}: {seen.inputs} inputs, {seen.seconds:.0f} s, {seen.findings or 'nothing found'}", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 0)

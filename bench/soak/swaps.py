"""Versions that come, good and bad, while requests go on."""

import asyncio
import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import orjson

from artifact import manifest
from artifact.engines import MODEL_FILES
from bench.payloads import BODIES, Body, first_output
from bench.soak.client import Answer, Connection, ConnectionLost, connect, get, post
from bench.soak.finding import Faults, Finding, Soak, percentiles_ms, told_by_tenths
from bench.soak.models import COLUMNS, INPUT, files, shifted
from bench.soak.server import Server, started, write_files, write_model

GOOD, BAD = 100, 20
"""Versions, over both models."""
QUICK_GOOD, QUICK_BAD = 8, 4
CONNECTIONS = 16
"""For each model."""
MODELS = {"loop": {"execution": "loop"}, "thread": {"execution": "thread", "threads": 1}}
"""The models, which differ in where they run."""
TURNS = {"loop": 0, "thread": 5000}
"""How long a call takes, as `shifted` has it: in a thread so long that requests always wait when a version is replaced."""
PATHS = {
    "OIP JSON": "/v2/models/{}/infer",
    "predictions JSON": "/predictions/{}",
    "OIP binary": "/v2/models/{}/infer",
}
"""Bodies whose answers name the version, and where they are sent."""
POLL_INTERVAL_S = 0.2
POLLED = 4
"""Of so many versions, one is left to polling; the others are asked for by `load`."""

_WHERE = {
    False: "`loop` on the event loop, `thread` in a thread",
    True: "`loop` in every front end, `thread` in engine processes",
}
_KINDS = [(kind, BODIES[kind]) for kind in PATHS]
_SERIALS = 1_000_000
"""Serial numbers stay below, so that float32 holds them."""
_TAKES_OVER_S = 30.0
_LOOK_S = 0.01
_MORE_THREADS = 8
"""asyncio makes some threads when they are first needed; a version that left none behind has taken its own along."""
_NOTHING = Body(b"", {})

Files = dict[str, bytes]


def _with_model(version: int, data: bytes) -> Files:
    return {**files(shifted(version)), MODEL_FILES["onnx"]: data}


def truncated(version: int) -> Files:
    """The second half of its model is missing."""
    data = shifted(version).onnx
    return _with_model(version, data[: len(data) // 2])


def flipped(version: int) -> Files:
    """One bit of its model is another: the hash does not hold."""
    data = bytearray(shifted(version).onnx)
    data[len(data) // 2] ^= 1
    return _with_model(version, bytes(data))


def disagreeing(version: int) -> Files:
    """Its hashes hold, and its model is one more than its golden cases say."""
    whole, other = files(shifted(version)), files(shifted(version + 1))
    return {**other, manifest.GOLDEN: whole[manifest.GOLDEN], manifest.MANIFEST: _restated(other, whole[manifest.GOLDEN])}


def incomplete(version: int) -> Files:
    """It has no golden cases."""
    return {name: data for name, data in files(shifted(version)).items() if name != manifest.GOLDEN}


SPOILED: Mapping[str, Callable[[int], Files]] = {
    "truncated model": truncated,
    "flipped bit": flipped,
    "golden mismatch": disagreeing,
    "missing file": incomplete,
}
"""Ways in which a version is bad."""


def _restated(contents: Files, golden: bytes) -> bytes:
    """The manifest of these files, with other golden cases listed in it."""
    stated = manifest.decode(contents[manifest.MANIFEST], Path())
    evidence = {**stated.evidence, manifest.GOLDEN: manifest.FileEntry.of(golden)}
    return manifest.Manifest(stated.signature, stated.config, stated.weights_sha256, stated.files, evidence).encode()


@dataclass(frozen=True, slots=True)
class Coming:
    """A version that is to come: its files lie at `staged` until one rename puts them into the repository."""

    model: str
    version: int
    spoiled: str | None
    polled: bool
    staged: Path


@dataclass(slots=True)
class Seen:
    """What clients know of a model: a request that begins now must be answered by `newest`, or by a later good version."""

    newest: int = 1
    good: set[int] = field(default_factory=lambda: {1})


async def swaps(soak: Soak) -> Finding:
    """A writer adds versions by a rename and lets them be loaded, while clients check every answer against its version."""
    repository = soak.repository("swaps")
    for name in MODELS:
        write_model(repository, name, 1, shifted(1))
    coming, swapping = _plan(soak), _Swapping(soak.processes.are_several)
    tell = told_by_tenths(soak, "swaps", len(coming))
    flags = (*soak.processes.flags(MODELS), "--poll-interval-s", str(POLL_INTERVAL_S))
    async with started(repository, *flags) as server:
        threads, began = server.threads(), time.perf_counter()
        asking = [asyncio.create_task(swapping.ask_on(server.port, name, seed)) for name in MODELS for seed in range(CONNECTIONS)]
        for number, one in enumerate(coming, 1):
            await swapping.bring(server, repository, one)
            tell(number)
        swapping.over = True
        await asyncio.gather(*asking)
        took_s = time.perf_counter() - began
        await swapping.judge(server, coming)
        more_threads = server.threads() - threads
    faults = swapping.faults
    faults.require(more_threads <= _MORE_THREADS, f"the server has {more_threads} threads more than at the start")
    faults.add_all(server.unforeseen())
    good = sum(one.spoiled is None for one in coming)
    return Finding(
        "Versions that come under load",
        f"{CONNECTIONS} connections ask each of two models without a pause ({_WHERE[soak.processes.engines > 0]}) "
        f"while versions come, by one rename each; every {POLLED}th is left to polling, the others are asked for by `load`. "
        f"Version N answers x + N. An answer must be right for the version that it names, and that must be a good one, no older "
        f"than any that answered anybody, or was loaded, before the request was sent. Bad versions: {', '.join(SPOILED)}.",
        {
            "good versions, each of which took over": f"{good}",
            "bad versions, none of which ever answered": f"{len(coming) - good}",
            "requests meanwhile": f"{swapping.asked:,}",
            "right answers": f"{swapping.right:,}",
            "`load` of a good version, p50 / p99 / max, ms": percentiles_ms(swapping.loads_s),
            "requests/s, each checked": f"{swapping.asked / took_s:,.0f}",
            "threads of the server more than at the start": f"{more_threads}",
        },
        faults.lines(),
    )


def _plan(soak: Soak) -> list[Coming]:
    """The versions in the order of their coming, staged: every kind of bad one on both models, loaded and polled."""
    good, bad = (QUICK_GOOD, QUICK_BAD) if soak.quick else (GOOD, BAD)
    plan: list[Coming] = []
    versions, names, kinds = dict.fromkeys(MODELS, 1), list(MODELS), list(SPOILED)

    def add(model: str, spoiled: str | None, *, polled: bool) -> None:
        versions[model] += 1
        version = versions[model]
        staged = soak.folder / "staged" / model / str(version)
        write_files(staged, files(shifted(version)) if spoiled is None else SPOILED[spoiled](version))
        plan.append(Coming(model, version, spoiled, polled, staged))

    for number in range(good):
        add(names[(number + number // POLLED) % 2], None, polled=number % POLLED == POLLED - 1)
        before, after = number * bad // good, (number + 1) * bad // good
        for one in range(before, after):
            turn = one // len(kinds)
            add(names[(one + turn) % 2], kinds[one % len(kinds)], polled=turn % 2 == 1)
    return plan


@dataclass(slots=True)
class _Swapping:
    are_several: bool
    faults: Faults = field(default_factory=Faults)
    seen: dict[str, Seen] = field(default_factory=lambda: {name: Seen() for name in MODELS})
    asked: int = 0
    right: int = 0
    loads_s: list[float] = field(default_factory=list)
    serials: Iterator[int] = field(default_factory=itertools.count)
    over: bool = False

    async def ask_on(self, port: int, model: str, seed: int) -> None:
        """Asks the default version, again and again."""
        generator = np.random.default_rng(seed)
        connection = await connect(port)
        while not self.over:
            try:
                await self.ask(connection, model, generator)
            except ConnectionLost as lost:
                self.faults.add(f"{model}: a request was not answered: {lost}")
                connection = await connect(port)
        connection.close()

    async def ask(self, connection: Connection, model: str, generator: np.random.Generator) -> int | None:
        """Asks once; the version that answered, or None where anything was wrong."""
        seen = self.seen[model]
        kind, body = _KINDS[generator.integers(len(_KINDS))]
        x = np.empty((int(generator.integers(1, 5)), COLUMNS), np.float32)
        x[:] = next(self.serials) % _SERIALS
        x[:, 1] = TURNS[model]
        oldest = seen.newest
        self.asked += 1
        answer = await connection.ask(post(PATHS[kind].format(model), body({INPUT: x})))
        version = _version(answer)
        wrong = _wrong(answer, version, oldest, seen.good, x)
        if wrong is not None:
            self.faults.add(f"{model}, {kind}: {wrong}")
            return None
        self.right += 1
        seen.newest = max(seen.newest, version)
        return version

    async def bring(self, server: Server, repository: Path, one: Coming) -> None:
        """Puts a version into the repository, and waits until it is served, or refused."""
        seen = self.seen[one.model]
        if one.spoiled is None:
            seen.good.add(one.version)
        one.staged.rename(repository / one.model / str(one.version))
        ends_at = time.perf_counter() + _TAKES_OVER_S
        try:
            async with asyncio.timeout(_TAKES_OVER_S):
                if one.polled:
                    await self._until_noticed(server, one)
                else:
                    await self._load(server, one)
        except TimeoutError:
            self.faults.add(f"{one.model} {one.version} ({one.spoiled or 'good'}) was not dealt with in {_TAKES_OVER_S:g} s")
        version, latest = await self._asked_anew(server, one), max(seen.good)
        while self.are_several and one.polled and version is not None and version < latest and time.perf_counter() < ends_at:
            version = await self._asked_anew(server, one)
        self.faults.require(version in {latest, None}, f"{one.model}: version {version} answered, and not {latest}")

    async def _asked_anew(self, server: Server, one: Coming) -> int | None:
        """The version that answers on a new connection."""
        connection = await connect(server.port)
        version = await self.ask(connection, one.model, np.random.default_rng(one.version))
        connection.close()
        return version

    async def _load(self, server: Server, one: Coming) -> None:
        began = time.perf_counter()
        answer = await server.ask(post(f"/v2/repository/models/{one.model}/load", _NOTHING))
        if one.spoiled is None:
            self.loads_s.append(time.perf_counter() - began)
            self.faults.require(answer.status == 200, f"load of {one.model} {one.version}: {answer.status} {answer.content!r}")
            self.seen[one.model].newest = one.version
        else:
            told = answer.status == 400 and f"version {one.version} failed its checks".encode() in answer.content
            self.faults.require(told, f"load of {one.model} {one.version} ({one.spoiled}): {answer.status} {answer.content!r}")

    async def _until_noticed(self, server: Server, one: Coming) -> None:
        """Until polling found the version: a good one is ready, a bad one has its reason told."""
        path = f"/v2/models/{one.model}/versions/{one.version}/ready"
        while True:
            answer = await server.ask(get(path))
            refused = answer.status == 503 and b"failed its checks" in answer.content
            if refused if one.spoiled else answer.status == 200:
                break
            await asyncio.sleep(_LOOK_S)
        if one.spoiled is None and not self.are_several:
            self.seen[one.model].newest = one.version

    async def judge(self, server: Server, coming: list[Coming]) -> None:
        """Compares what the server counted with what was brought."""
        for name in MODELS:
            good = [one.version for one in coming if one.model == name and one.spoiled is None]
            bad = sum(one.model == name for one in coming) - len(good)
            took_over = await server.counted("swaps_total", model=name)
            failed = await server.counted("loads_failed_total", model=name)
            self.faults.require(took_over == len(good), f"{name}: {took_over:.0f} versions took over, and not {len(good)}")
            self.faults.require(failed >= bad, f"{name}: {failed:.0f} loads failed, and not at least {bad}")
            versions = orjson.loads((await server.ask(get(f"/v2/models/{name}"))).content)["versions"]
            self.faults.require(versions == [str(max(good))], f"{name}: the versions {versions} are served at the end")


def _version(answer: Answer) -> int:
    """The version that an answer names; 0 where it names none."""
    if answer.status != 200:
        return 0
    head = int(answer.headers().get("inference-header-content-length", len(answer.content)))
    return int(orjson.loads(answer.content[:head])["model_version"])


def _wrong(answer: Answer, version: int, oldest: int, good: set[int], x: np.ndarray) -> str | None:
    if answer.status != 200:
        return f"{answer.status} {answer.content[:200]!r}"
    if version not in good:
        return f"version {version} answered, which is a bad one"
    if version < oldest:
        return f"version {version} answered after version {oldest} did, or was loaded"
    found, expected = first_output(answer.headers(), answer.content), x.ravel() + version
    return None if np.array_equal(found, expected) else f"version {version} answered {found.tolist()} to {x.tolist()}"

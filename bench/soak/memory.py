"""What the server holds in memory, over a million requests and a hundred versions.

With engine processes a second model, the same, runs in those, and gets every other request and version.
"""

import asyncio
import contextlib
import re
import time
from dataclasses import dataclass, field

import numpy as np

from bench.observed.kinds import ENGINE
from bench.payloads import Body, oip_binary
from bench.soak.client import Answer, ConnectionLost, connect, post
from bench.soak.finding import Curve, Faults, Finding, Soak, told_by_tenths
from bench.soak.models import INPUT, PIXELS, files, mlp
from bench.soak.server import Server, started, until, write_files, write_model

NAME, APART = "mlp", "mlp-apart"
REQUESTS = 1_000_000
BASE_REQUESTS = 50_000
"""What is held then is what it is compared with."""
VERSIONS = 100
GROWTH = 0.03
CONNECTIONS = 32

_QUESTIONS = 16
_SETTLES_S = 10.0
_VERSION = re.compile(rb'"model_version":"(\d+)"')
_NOTHING = Body(b"", {})
_SECOND = f" Requests and versions are `{NAME}`'s, which runs in every front end, and `{APART}`'s, in engine processes, in turn."


async def memory(soak: Soak) -> Finding:
    """Asks a million times while a hundred versions follow each other, and reads what is held before each of them.

    The quick form judges no growth: so soon after its start, a process has not yet touched all that it needs.
    """
    requests, versions, base = soak.count(REQUESTS), soak.count(VERSIONS), soak.count(BASE_REQUESTS)
    repository = soak.repository("memory")
    models: dict[str, dict[str, str]] = {NAME: {}, **({APART: {"execution": "process"}} if soak.processes.engines else {})}
    for name in models:
        write_model(repository, name, 1, mlp(1))
    async with started(repository, *soak.processes.flags(models)) as server:
        asking = _Asking(soak, server, tuple(models), requests, versions)
        threads, began = server.threads(), time.perf_counter()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(asking.swap())
            for _ in range(CONNECTIONS):
                tasks.create_task(asking.ask_on())
        took_s = time.perf_counter() - began
        await asking.look()
        more_threads = server.threads() - threads
        took_over = await server.counted("swaps_total")
    asking.faults.require(took_over == versions, f"{took_over:.0f} versions took over, and not {versions}")
    asking.faults.add_all(server.unforeseen())
    base_mb, last_mb = next(held_mb for done, held_mb in asking.points if done >= base), asking.points[-1][1]
    limit_mb, growth = base_mb * (1 + GROWTH), last_mb / base_mb - 1
    held = "Pss of all processes" if soak.processes.are_several else "VmRSS"
    return Finding(
        "Memory",
        f"{CONNECTIONS} connections send single rows to an MLP 784-128-10 as OIP binary, every answer is compared with what the "
        f"version that it names must say, and a new version takes over every {asking.step:,} requests. "
        f"{held} is read before each of them, and at the end.{_SECOND if APART in models else ''}",
        {
            "requests": f"{requests:,}",
            "right answers": f"{asking.right:,}",
            "versions that took over": f"{took_over:.0f}",
            "requests/s, each checked": f"{requests / took_s:,.0f}",
            f"{held} at the first look after {base:,} requests, MB": f"{base_mb:.1f}",
            f"{held} after {requests:,} requests, MB": f"{last_mb:.1f} ({growth:+.1%})",
            "threads of the server more than at the start": f"{more_threads}",
        },
        asking.faults.lines(),
        [f"{held} grew by {growth:.1%}, which is more than {GROWTH:.0%}"] if growth > GROWTH and not soak.quick else [],
        Curve(asking.points, limit_mb, held),
    )


@dataclass(slots=True)
class _Asking:
    soak: Soak
    server: Server
    models: tuple[str, ...]
    requests: int
    versions: int
    asked: int = 0
    done: int = 0
    right: int = 0
    points: list[tuple[int, float]] = field(default_factory=list)
    faults: Faults = field(default_factory=Faults)
    due: asyncio.Queue[int] = field(default_factory=asyncio.Queue)

    @property
    def step(self) -> int:
        """Requests between two versions."""
        return self.requests // (self.versions + 1)

    async def look(self) -> None:
        """Notes what the server holds when what the last version replaced is gone."""
        settled = len(self.models[1:]) * self.soak.processes.engines
        with contextlib.suppress(TimeoutError):  # memory will tell
            await until(lambda: len(self.server.pids(of=ENGINE)) == settled, _SETTLES_S)
        self.points.append((self.done, self.server.memory_mb()))

    async def ask_on(self) -> None:
        """Asks until all is asked."""
        questions, tell = [_Questions(name) for name in self.models], told_by_tenths(self.soak, "memory", self.requests)
        connection = await connect(self.server.port)
        while self.asked < self.requests:
            number = self.asked = self.asked + 1
            try:
                its = questions[number % len(questions)]
                answer = await connection.ask(its.requests[number % _QUESTIONS])
            except ConnectionLost as lost:
                self.faults.add(f"request {number} was not answered: {lost}")
                connection = await connect(self.server.port)
            else:
                self.judge(number, answer, its)
            self.done += 1
            if self.done % self.step == 0 and self.done // self.step <= self.versions:
                self.due.put_nowait(self.done // self.step + 1)
            tell(self.done)
        connection.close()

    def judge(self, number: int, answer: Answer, questions: "_Questions") -> None:
        """Counts a right answer, or a fault."""
        if questions.is_right(answer, number % _QUESTIONS):
            self.right += 1
        else:
            self.faults.add(f"request {number}: {answer.status} {answer.content[:300]!r}")

    async def swap(self) -> None:
        """Puts a version into the repository whenever one is due, and has it loaded."""
        for number in range(self.versions):
            version = await self.due.get()
            await self.look()
            name = self.models[number % len(self.models)]
            staged = self.soak.folder / "staged-memory" / str(version)
            write_files(staged, files(mlp(version)))
            staged.rename(self.server.repository / name / str(version))
            answer = await self.server.ask(post(f"/v2/repository/models/{name}/load", _NOTHING))
            self.faults.require(answer.status == 200, f"load of {version}: {answer.status} {answer.content!r}")


class _Questions:
    """Some requests, and what each version must answer to them."""

    def __init__(self, name: str) -> None:
        x = np.random.default_rng(0).integers(0, 4, (_QUESTIONS, 1, PIXELS)).astype(np.float32)
        self.requests = [post(f"/v2/models/{name}/infer", oip_binary({INPUT: one})) for one in x]
        self._without_version = [mlp(0).answer(one) for one in x]
        self._answers: dict[bytes, list[bytes]] = {}

    def is_right(self, answer: Answer, question: int) -> bool:
        """Whether the answer is that of the version which it names."""
        match = _VERSION.search(answer.content) if answer.status == 200 else None
        return match is not None and answer.content.endswith(self._expected(match[1])[question])

    def _expected(self, version: bytes) -> list[bytes]:
        if version not in self._answers:
            self._answers[version] = [(one + np.float32(int(version))).tobytes() for one in self._without_version]
        return self._answers[version]

"""Who is asked: the server at the URL, or ours started on an artifact; peers with the same model; and whether they are right."""

import contextlib
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import artifact
from artifact import Artifact, scaled_error
from bench import payloads, raw_answers
from bench.body import Body, Raws
from bench.client.load import Request
from bench.errors import NotAsked, ServerGone, WrongAnswer
from bench.observed import Observer, listening
from bench.observed.errors import NotSeen
from bench.payloads import Given, Payload
from bench.peers import Peer
from bench.processes import free_port, running
from bench.results import OURS, Contender
from bench.target import Target, ask

_READY = "/v2/health/ready"
_LAST_LINES = 5
_TOLERANCE = 1e-5
"""Scaled error that an answer may have at least: joined rows and other thread counts round differently."""


@dataclass(frozen=True, slots=True)
class Contestant:
    """A contender that runs, and what it is sent, taken in turn."""

    key: str
    info: Contender
    host: str
    port: int
    sent: Sequence[Payload]
    observer: Observer

    @property
    def requests(self) -> list[Request]:
        """The requests as they go over the connection."""
        return [payloads.request(payload, self.host, self.port) for payload in self.sent]


@contextlib.contextmanager
def our_server(directory: Path, folder: Path) -> Iterator[str]:
    """Our server with its default settings on a copy of one artifact, until the block ends: its URL.

    Raises:
        ProcessFailed: it did not start, or ended.
    """
    name, version = directory.resolve().parts[-2:]
    repository = folder / "repository"
    shutil.copytree(directory, repository / name / version)
    port = free_port()
    command = [sys.executable, "-m", "serving", "--repository", str(repository), "--port", str(port)]
    log = folder / "stateserve.log"
    with running(command, port, log, _READY):
        try:
            yield f"http://127.0.0.1:{port}"
        except ServerGone as gone:
            last = "\n".join(log.read_text().splitlines()[-_LAST_LINES:])
            raise ServerGone(f"{gone}; it ends with:\n{last}", gone.outcome) from gone


def ours(found: Target, sent: Sequence[Payload]) -> Contestant:
    """The server that was given by its URL."""
    facts = {
        name: found.facts[name] for name in ("execution", "engine", "threads", "instances", "max_rows") if name in found.facts
    }
    about = facts.get("execution", f"The server at {found.host}:{found.port}.")
    observer = Observer(found.host, found.port, found.model or None, found.version)
    return Contestant(
        OURS,
        Contender(title="Stateserve" if facts else "the server", about=about, settings=facts),
        found.host,
        found.port,
        sent,
        observer,
    )


@contextlib.contextmanager
def beside(peer: Peer, loaded: Artifact | None, protocol: str, first: Contestant, folder: Path) -> Iterator[Contestant]:
    """A peer with the same model, engine, threads and cores as the first contender, and its requests, until the block ends.

    Raises:
        NotAsked: there is no artifact, the peer does not take the protocol, or the first contender runs on another machine.
        ProcessFailed: it did not start, or ended.
    """
    if loaded is None:
        raise NotAsked("--against starts others with the same model: say where its artifact lies, by --bound ARTIFACT")
    facts, directory = first.info.settings, loaded.path
    if not listening.is_here(first.host):
        raise NotAsked(f"--against starts others on this machine, and {first.host} is another: leave it out, or run it there")
    engine, threads = facts.get("engine", "auto"), int(facts["threads"]) if "threads" in facts else None
    instances = int(facts.get("instances", 1))
    cpus = _cpus(first)
    same = peer.on(engine, "cpu")
    path = same.path(protocol, directory.resolve().parts[-2])
    info = same.contender(directory, threads, instances, cpus)
    with same.start(directory, folder / same.key, threads, instances, cpus) as found:
        sent = [replace(one, path=path) for one in first.sent]
        yield Contestant(same.key, info, "127.0.0.1", found.port, sent, Observer("127.0.0.1", found.port, None, pid=found.pid))


def _cpus(first: Contestant) -> frozenset[int] | None:
    """The cores that the first contender may run on; None where its processes cannot be seen."""
    try:
        return frozenset[int]().union(*(process.cpu_affinity() for process in listening.serving(first.host, first.port)))
    except NotSeen:
        return None


def artifact_of(directory: Path, found: Target) -> Artifact:
    """The artifact that the server is said to serve, with the engine that it uses.

    Raises:
        NotAsked: it is another than the server's.
        ArtifactError: it is none, or it is damaged.
    """
    loaded = artifact.load(directory, engine=found.facts.get("engine", "auto"), threads=1)
    served = found.facts.get("content_id", loaded.manifest.content_id)
    if served != loaded.manifest.content_id:
        raise NotAsked(
            f"--bound {directory} is not what {found.model} is served from: its content id is "
            f"{loaded.manifest.content_id[:12]}…, that of the server {served[:12]}…"
        )
    return loaded


def require_answers(asked: Contestant, protocol: str, given: Sequence[Given], loaded: Artifact | None) -> None:
    """Asks a contender everything once; where there is an artifact, its numbers must be those of the engine.

    Raises:
        NotAsked: it does not answer with success.
        WrongAnswer: it answers other numbers: its speed would mean nothing.
    """
    for number, payload in enumerate(asked.sent):
        _, headers, content = ask(asked.host, asked.port, payload)
        inputs = given[number] if given else None
        if loaded is None or inputs is None or isinstance(inputs, Body):
            continue
        if isinstance(inputs, Raws) and raw_answers.has_predictions(loaded, protocol):
            raw_answers.require(content, inputs, loaded)
        else:
            found = payloads.read_answer(protocol, headers, content, loaded.signature.outputs)
            expected = raw_answers.outputs(loaded, inputs) if isinstance(inputs, Raws) else loaded.run(inputs)
            budgets = loaded.budgets[loaded.engine.name]
            for name, values in found.items():
                error, allowed = scaled_error(values, expected[name].ravel()), max(_TOLERANCE, budgets[name])
                if error > allowed:
                    raise WrongAnswer(
                        f"{asked.key} answers other numbers than the engine: {name} has a scaled error of {error:.1e}, "
                        f"allowed is {allowed:.1e}"
                    )

"""What comes before the first load: everything that can be wrong is looked at, and every contender runs and has answered."""

import os
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import artifact
from artifact.errors import ArtifactError
from bench import inputs, payloads, peers, raw, report, target
from bench.contenders import Contestant, artifact_of, beside, our_server, ours, require_answers
from bench.errors import NotAsked
from bench.observed import machine
from bench.options import Options
from bench.payloads import Given
from bench.results import ModelAsked, PayloadSent, Results
from bench.target import Target

DIFFERENT = 8
"""How many different bodies take turns, so that no cache can answer."""

_MACHINE_BUSY_BEFORE = 0.1
"""Load before the test, as a share of the cores, from which on a reader is warned."""


class Steps(Protocol):
    """Who shows what is done."""

    def step(self, title: str) -> None:
        """Something that is no load begins."""
        ...


@dataclass(frozen=True, slots=True)
class Prepared:
    """Who is asked, ours first, each with its requests; and the results before anything is measured.

    `folder` is for files of the test, and is gone after it.
    """

    contestants: Sequence[Contestant]
    begun: Results
    folder: Path


def prepare(options: Options, shown: Steps, stack: ExitStack) -> Prepared:
    """Starts what is to be started, until the stack is closed, and asks every contender everything once.

    Raises:
        NotAsked, PeerMissing, WrongAnswer, ProcessFailed: nothing can be measured.
    """
    _require_possible(options)
    others = peers.chosen(options.against)
    for one in others:
        one.require_installed()
    busy = machine.load_before()
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="stateserve-bench-")))
    found = _looked_at(options, shown, folder, stack)
    loaded = None if options.bound is None else artifact_of(options.bound, found)
    given = _given(options, found)
    contestants = [ours(found, payloads.build(options.protocol, found, given, options.headers))]
    for one in others:
        shown.step(f"start {one.title}")
        contestants.append(stack.enter_context(beside(one, loaded, options.protocol, contestants[0], folder)))
    for one in contestants:
        shown.step(f"ask {one.info.title} once")
        require_answers(one, options.protocol, given, loaded)
    return Prepared(contestants, _begun(options, found, contestants, busy), folder)


def _require_possible(options: Options) -> None:
    report.require_installed()
    if options.protocol not in payloads.PROTOCOLS:
        raise NotAsked(f"--protocol {options.protocol}: there are {', '.join(payloads.PROTOCOLS)}")
    if options.url is None and options.bound is None:
        raise NotAsked("say which server: --url http://127.0.0.1:8080, or --bound ARTIFACT to start ours on an artifact")
    if options.protocol == "raw" and (options.url is None or options.bound is not None):
        raise NotAsked("--raw asks --url as it is, of which nothing else is known: give --url, and leave --bound out")
    if not options.concurrency and (options.sweep or options.objective is not None):
        raise NotAsked("--slo and --rate sweep begin at what a closed loop reaches: give --concurrency, too")
    if not options.concurrency and not options.rates:
        raise NotAsked("there is nothing to measure: give --concurrency, or --rate")
    if options.bound is not None:
        _require_artifact(options.bound)
    _require_writable(options.out)


def _require_artifact(directory: Path) -> None:
    try:
        artifact.read_manifest(directory)
    except ArtifactError as cause:
        raise NotAsked(f"--bound {directory}: {cause}") from cause


def _require_writable(out: Path) -> None:
    """Raises NotAsked where the folder of the results could not be made or written: before the test, and not at its end."""
    there = next(folder for folder in (out.absolute(), *out.absolute().parents) if folder.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise NotAsked(f"--out {out}: {there} is not a folder that can be written; give another")


def _looked_at(options: Options, shown: Steps, folder: Path, stack: ExitStack) -> Target:
    url = options.url
    if options.protocol == "raw":
        return target.any_url(url or "")
    if url is None and options.bound is not None:
        shown.step("start the server")
        url = stack.enter_context(our_server(options.bound, folder))
    return target.look(url or "", options.model, options.version, options.headers)


def _given(options: Options, found: Target) -> Sequence[Given]:
    if options.protocol == "raw" or (options.protocol == "predictions-image" and not found.raw_inputs):
        return inputs.bodies(options.inputs, images_only=options.protocol != "raw")
    if options.protocol in payloads.RAW_PROTOCOLS:
        return _raw_values(options, found)
    if options.inputs:
        return inputs.from_files(options.inputs, found.signature, guessed=found.guessed)
    return inputs.made_up(found.signature, options.rows, DIFFERENT)


def _raw_values(options: Options, found: Target) -> Sequence[Given]:
    if not found.raw_inputs:
        raise NotAsked(
            f"--protocol {options.protocol} sends raw values, and {found.model} states no raw inputs, which an artifact has "
            "whose YAML declares preprocess; oip-binary sends tensors"
        )
    if options.inputs:
        return raw.from_files(options.inputs, found.raw_inputs, options.rows)
    return raw.made_up(found.raw_inputs, options.rows, DIFFERENT)


def _begun(options: Options, found: Target, contestants: Sequence[Contestant], busy: float) -> Results:
    sent = contestants[0].sent
    notes = list(found.notes)
    if busy > _MACHINE_BUSY_BEFORE:
        notes.append(f"The machine was not quiet before the test: {busy * 100:.0f} % of its cores were busy.")
    return Results(
        made_at=datetime.now(UTC).isoformat(timespec="seconds"),
        command=options.command,
        url="started for the test" if options.url is None else options.url.partition("?")[0],
        complete=False,
        stopped_by=None,
        machine=machine.facts(),
        model=ModelAsked(
            name=found.model, version=found.version, signature=found.signature.to_json() if found.oip else None, facts=found.facts
        ),
        payload=PayloadSent(
            protocol=options.protocol,
            different=len(sent),
            rows=sum(one.rows for one in sent) / len(sent),
            body_bytes=sum(len(one.content) for one in sent) / len(sent),
        ),
        contenders={one.key: one.info for one in contestants},
        cases=[],
        notes=notes,
    )

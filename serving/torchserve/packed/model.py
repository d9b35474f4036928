"""An artifact out of a .mar, and its answers to a batch of TorchServe's: those that `python -m serving` gives on /predictions."""

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from artifact import Signature, golden, load
from artifact.engines import MODEL_FILES
from artifact.errors import InvalidInput, OutOfMemory
from serving.errors import BadRequest, ServingError, UnsupportedBody
from serving.joined import JoinedEngine, Outcome
from serving.messages import Answer, Request
from serving.protocols.asked import Arrays, Asked, Limits
from serving.protocols.compression import decompress
from serving.protocols.predictions import JSON, PredictionsCodec
from serving.torchserve.packed import plain_json

log = logging.getLogger("stateserve")

ENGINES = {file: engine for engine, file in MODEL_FILES.items()}
_MOST_ROWS = 4096
"""Rows of one request, or eight of the largest calls where that is more: as our server has it for a fast model."""
_MOST_CALLS = 8


@dataclass(frozen=True, slots=True)
class Place:
    """What an archive holds: the artifact's file that is to run, and the name and version under which it answers."""

    file: Path
    name: str
    version: int


@dataclass(frozen=True, slots=True)
class Part:
    """Rows of one request of a batch, no more than one call takes."""

    request: int
    inputs: Arrays
    rows: int


class PackedModel:
    """A model that was checked, and gave the numbers that were proven: made by `proven`.

    A call that the device has no memory for fails with 507, and those after it have half as many rows at most.
    """

    def __init__(self, place: Place, signature: Signature, engine: JoinedEngine, limits: Limits) -> None:
        self._codec = PredictionsCodec(place.name, place.version, signature, limits)
        self._engine = engine
        self._signature = signature
        self._most_rows = most_rows(signature)
        self._max_body_bytes = limits.max_body_bytes

    def answers(self, requests: Sequence[Request | ServingError], request_ids: Sequence[str]) -> list[Answer]:
        """An answer to each: rows of all are joined, up to the proven most, and one bad request never fails its neighbours."""
        asked = [self._asked(request) for request in requests]
        outcomes = self._outcomes(asked)
        return [self._answer(*each) for each in zip(asked, outcomes, request_ids, strict=True)]

    def _asked(self, request: Request | ServingError) -> Asked | Exception:
        try:
            if isinstance(request, ServingError):
                return request
            encoding = request.headers.get("content-encoding")
            if encoding is not None:
                request.body = decompress(request.body, encoding, self._max_body_bytes)
            return self._codec.decode(request)
        except Exception as error:  # noqa: BLE001 - it is this request's own
            return error

    def _outcomes(self, asked: Sequence[Asked | Exception]) -> list[Outcome]:
        """Each request's outputs, or its error."""
        found: list[list[Outcome]] = [[each] if isinstance(each, Exception) else [] for each in asked]
        for call in self._calls(asked):
            outcomes = self._engine.run([part.inputs for part in call], [part.rows for part in call])
            if any(isinstance(outcome, OutOfMemory) for outcome in outcomes):
                self._halve(sum(part.rows for part in call))
            for part, outcome in zip(call, outcomes, strict=True):
                found[part.request].append(outcome)
        return [_joined(outcomes) for outcomes in found]

    def _halve(self, rows: int) -> None:
        """So many rows were too many for the device's memory."""
        most = fewer_rows(self._signature, rows)
        if most < self._most_rows:
            log.warning("the device has no memory for calls of %d rows: from now on they have %d at most", rows, most)
            self._most_rows = most

    def _calls(self, asked: Sequence[Asked | Exception]) -> Iterator[list[Part]]:
        """The parts of all requests that are to be run, in calls: of one group each, with as many rows as fit."""
        groups: dict[Any, list[Part]] = {}
        for index, each in enumerate(asked):
            if isinstance(each, Asked):
                groups.setdefault(each.group, []).extend(self._parts(index, each))
        for parts in groups.values():
            call: list[Part] = []
            for part in parts:
                if call and sum(other.rows for other in call) + part.rows > self._most_rows:
                    yield call
                    call = []
                call.append(part)
            yield call

    def _parts(self, index: int, asked: Asked) -> Iterator[Part]:
        if asked.rows <= self._most_rows:
            yield Part(index, asked.inputs, asked.rows)
            return
        for start in range(0, asked.rows, self._most_rows):
            inputs = {name: array[start : start + self._most_rows] for name, array in asked.inputs.items()}
            yield Part(index, inputs, min(self._most_rows, asked.rows - start))

    def _answer(self, asked: Asked | Exception, outcome: Outcome, request_id: str) -> Answer:
        try:
            if isinstance(asked, Asked) and not isinstance(outcome, Exception):
                return self._codec.encode(asked, outcome)
        except Exception as error:  # noqa: BLE001 - see _asked
            outcome = error
        return _refusal(outcome, request_id)


def proven(place: Place, device: str, threads: int | None) -> PackedModel:
    """The model, after every hash was checked and every golden case replayed, alone and in the largest batch, on the device.

    On a GPU it computes in the precision that the artifact declares.

    Raises:
        StateserveError: a check failed, or the engine cannot run here.
    """
    loaded = load(place.file.parent, engine=ENGINES[place.file.name], threads=threads, device=device)
    replayed = loaded.replay()
    golden.require(replayed)
    log.info(
        "%s version %d runs on engine %s, %s, in %s: %d comparisons with golden cases hold",
        *(place.name, place.version, loaded.engine.name, device, loaded.precision, len(replayed)),
    )
    signature = loaded.signature
    limits = Limits(max_rows=max(_MOST_ROWS, _MOST_CALLS * most_rows(signature)))
    return PackedModel(place, signature, JoinedEngine(loaded.engine, signature, _padding(signature)), limits)


def request_of(row: Mapping[str, Any], headers: Mapping[str, Any]) -> Request | ServingError:
    """TorchServe's row of one request as ours, or what is wrong with it.

    TorchServe's worker has read a body of JSON already: it is written again, so that its limits are checked where all are.
    """
    lower = {name.lower(): value for name, value in headers.items() if isinstance(value, str)}
    if lower.get("explain") == "True":
        return BadRequest("the model gives predictions, and no explanations of them")
    form = lower.get("content-type", JSON).partition(";")[0].strip().lower()
    if form == "application/x-www-form-urlencoded":
        return UnsupportedBody(f'content type "{form}" reaches a handler of TorchServe as a form: send {JSON}')
    body = row.get("body", b"")  # forms have no body; their content type is refused later
    if isinstance(body, str) and form != JSON:  # other text is decoded, and no more
        body = body.encode()
    elif not isinstance(body, bytes | bytearray):
        try:
            body = json.dumps(body, allow_nan=False).encode()
        except (ValueError, RecursionError) as cause:
            return BadRequest(f"the body is not JSON: {cause}")
    return Request("POST", "/predictions", "", lower, bytes(body))


def most_rows(signature: Signature) -> int:
    """Rows of one call at most: what was proven."""
    if signature.batch_dim is None:
        return 1
    dim = signature.dims[signature.batch_dim]
    return max(dim.min, dim.max - dim.max % dim.multiple)


def fewer_rows(signature: Signature, rows: int) -> int:
    """Half as many rows, or as few as the model takes: a number that was proven."""
    if signature.batch_dim is None:
        return 1
    dim = signature.dims[signature.batch_dim]
    return max(-(-dim.min // dim.multiple) * dim.multiple, rows // 2 // dim.multiple * dim.multiple)


def _padding(signature: Signature) -> Callable[[int], int]:
    """How many rows a call for so many is given: the next number that was proven."""
    if signature.batch_dim is None:
        return lambda rows: rows
    dim = signature.dims[signature.batch_dim]
    return lambda rows: max(dim.min, -(-rows // dim.multiple) * dim.multiple)


def _joined(outcomes: list[Outcome]) -> Outcome:
    failed = next((outcome for outcome in outcomes if isinstance(outcome, Exception)), None)
    if failed is not None:
        return failed
    parts = [outcome for outcome in outcomes if not isinstance(outcome, Exception)]
    if len(parts) == 1:
        return parts[0]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _status(error: object) -> int:
    if isinstance(error, InvalidInput):
        return 400
    if isinstance(error, OutOfMemory):
        return 507
    return error.status if isinstance(error, ServingError) else 500


def _refusal(error: object, request_id: str) -> Answer:
    """The error as our server tells it: the client's fault in full, our own by its kind."""
    status = _status(error)
    kind, message = type(error).__name__, str(error)
    if status >= 500:
        log.error("request %s failed", request_id, exc_info=error if isinstance(error, Exception) else None)
        message = f"{kind}: the server failed; its log says more under request id {request_id}"
    body = plain_json.dumps({"code": status, "type": kind, "message": message})
    return Answer(status, body, [("content-type", JSON)])

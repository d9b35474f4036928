"""What a server answers to raw values must be what the artifact's own operations and engine make of them."""

import numpy as np
import orjson

from artifact import Artifact
from artifact.errors import InvalidInput
from artifact.operations import RawLimits
from artifact.raw_cases import answer_error
from bench.body import Raws
from bench.errors import NotAsked, WrongAnswer

_TOLERANCE = 1e-4
"""Scaled error that a number of an answer may have: joined rows and other thread counts round differently."""
_SHOWN = 200


def outputs(loaded: Artifact, raws: Raws) -> dict[str, np.ndarray]:
    """What the artifact's own operations and engine make of the values.

    Raises:
        NotAsked: the artifact declares no operations on its inputs, or refuses the values.
    """
    if loaded.operations is None:
        raise NotAsked(f"{loaded.path} declares no operations: it takes no raw values")
    try:
        rows = [loaded.operations.prepare(raws.row(number), RawLimits()) for number in range(raws.rows)]
        return loaded.run(loaded.operations.join(rows))
    except InvalidInput as cause:
        raise NotAsked(f"the artifact {loaded.path} refuses what was to be sent: {cause}") from cause


def has_predictions(loaded: Artifact, protocol: str) -> bool:
    """Whether an answer holds predictions, and not tensors: the Open Inference Protocol's are always tensors."""
    return loaded.operations is not None and loaded.operations.predicts and not protocol.startswith("oip")


def require(content: bytes, raws: Raws, loaded: Artifact) -> None:
    """Compares the predictions of an answer.

    Raises:
        NotAsked: the artifact refuses the values.
        WrongAnswer: they are none, or others.
    """
    start = f"it begins with: {content[:_SHOWN].decode(errors='replace')}"
    try:
        found = orjson.loads(content)["predictions"]
    except (orjson.JSONDecodeError, KeyError, TypeError) as cause:
        raise WrongAnswer(f"the answer has no predictions; {start}") from cause
    wanted = loaded.operations.finish(outputs(loaded, raws)) if loaded.operations else None
    if answer_error(found, wanted) > _TOLERANCE:
        raise WrongAnswer(f"the answer has other predictions than the artifact, which says {str(wanted)[:_SHOWN]}; {start}")

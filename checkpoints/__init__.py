"""What training leaves behind: recognised by its bytes, read without running its code, matched to a model exactly."""

from .errors import AmbiguousWeights, CheckpointError, KeysDoNotMatch, UnreadableCheckpoint, UnsafeCheckpoint
from .keys import KeyMatch, match_keys
from .kinds import Kind, Recognised
from .read import read
from .recognise import recognise
from .weights import Checkpoint, WeightSet, weights_digest

__all__ = [
    "AmbiguousWeights",
    "Checkpoint",
    "CheckpointError",
    "KeyMatch",
    "KeysDoNotMatch",
    "Kind",
    "Recognised",
    "UnreadableCheckpoint",
    "UnsafeCheckpoint",
    "WeightSet",
    "match_keys",
    "read",
    "recognise",
    "weights_digest",
]

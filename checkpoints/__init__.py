"""What training leaves behind: recognised by its bytes, read without running its code, matched to a model exactly."""

from checkpoints.errors import AmbiguousWeights, CheckpointError, KeysDoNotMatch, UnreadableCheckpoint, UnsafeCheckpoint
from checkpoints.keys import KeyMatch, match_keys
from checkpoints.kinds import Kind, Recognised
from checkpoints.read import read
from checkpoints.recognise import recognise
from checkpoints.weights import Checkpoint, WeightSet, weights_digest

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

"""What training leaves behind: kept whole, resumed; recognised by its bytes, read without running its code, matched exactly."""

from checkpoints.batches import Batches
from checkpoints.errors import (
    AmbiguousWeights,
    CheckpointError,
    DirectoryTaken,
    KeeperError,
    KeysDoNotMatch,
    NotEnoughSpace,
    NothingToResume,
    SaveFailed,
    UnreadableCheckpoint,
    UnsafeCheckpoint,
)
from checkpoints.keeping.keeper import Keeper
from checkpoints.keeping.policies import Best, EveryEpochs, EverySeconds, EverySteps, Last
from checkpoints.keeping.resumed import Resumed
from checkpoints.keys import KeyMatch, match_keys
from checkpoints.kinds import Kind, Recognised
from checkpoints.read import read
from checkpoints.recognise import recognise
from checkpoints.warm_start import WarmStart, warm_start
from checkpoints.weights import Checkpoint, WeightSet, weights_digest

__all__ = [
    "AmbiguousWeights",
    "Batches",
    "Best",
    "Checkpoint",
    "CheckpointError",
    "DirectoryTaken",
    "EveryEpochs",
    "EverySeconds",
    "EverySteps",
    "Keeper",
    "KeeperError",
    "KeyMatch",
    "KeysDoNotMatch",
    "Kind",
    "Last",
    "NotEnoughSpace",
    "NothingToResume",
    "Recognised",
    "Resumed",
    "SaveFailed",
    "UnreadableCheckpoint",
    "UnsafeCheckpoint",
    "WarmStart",
    "WeightSet",
    "match_keys",
    "read",
    "recognise",
    "warm_start",
    "weights_digest",
]

"""The room's public names, and what importing them costs."""

import subprocess
import sys

import checkpoints


def test_public_names():
    """The room exports what the other rooms use, and nothing else."""
    assert checkpoints.__all__ == [
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


def test_exit_codes():
    """Each kind of failure ends a command with its own code."""
    codes = {error.__name__: error.exit_code for error in checkpoints.CheckpointError.__subclasses__()}

    assert codes == {
        "UnreadableCheckpoint": 3,
        "UnsafeCheckpoint": 4,
        "KeysDoNotMatch": 5,
        "AmbiguousWeights": 6,
        "KeeperError": 1,
    }


def test_importing_the_room_imports_no_torch():
    """torch is imported by the functions that need it, not by the room."""
    code = "import sys, checkpoints; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

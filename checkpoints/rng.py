"""The random numbers of a process: where each generator stands, and back to there.

Python's `random`, NumPy's global generator, torch's on the CPU and on each CUDA device. A generator of your own
(`numpy.random.default_rng`, `torch.Generator`) is yours: give its state as `extra`.
"""

import random
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from checkpoints.errors import UnreadableCheckpoint


def capture() -> dict[str, Any]:
    """The states by generator, of types that a checkpoint holds; NumPy's only where it is imported, CUDA's where it is in use."""
    import torch

    states: dict[str, Any] = {"python": random.getstate(), "torch": torch.get_rng_state()}
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        _, key, position, has_gauss, gauss = numpy.random.get_state(legacy=True)
        states["numpy"] = (key.tobytes(), int(position), int(has_gauss), float(gauss))
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        states["cuda"] = torch.cuda.get_rng_state_all()
    return states


def check(states: Any) -> None:
    """Raises UnreadableCheckpoint where `states` is not what `capture` gives."""
    import torch

    try:
        random.Random().setstate(states["python"])  # noqa: S311 - a generator to try the state on
        torch.Generator().set_state(states["torch"].cpu())
        if "numpy" in states:
            _numpy_state(states["numpy"])
        for state in states.get("cuda", ()):
            torch.ByteTensor(state.cpu())
    except (TypeError, ValueError, KeyError, AttributeError, RuntimeError) as error:
        raise UnreadableCheckpoint(f"The states of the random numbers are not such states: {error}.") from error


def restore(states: Mapping[str, Any]) -> tuple[str, ...]:
    """Let every generator go on from its saved state; sentences about those that cannot."""
    import torch

    random.setstate(states["python"])
    torch.set_rng_state(states["torch"].cpu())
    if "numpy" in states:
        import numpy as np

        np.random.set_state(_numpy_state(states["numpy"]))  # noqa: NPY002 - the global generator is what is restored
    return _restore_cuda(states.get("cuda", ()))


def _restore_cuda(saved: Sequence[Any]) -> tuple[str, ...]:
    import torch

    here = torch.cuda.device_count() if torch.cuda.is_available() else 0
    for index, state in zip(range(here), saved, strict=False):
        torch.cuda.set_rng_state(state.cpu(), index)
    if len(saved) > here:
        changed = "what was drawn on the others is drawn elsewhere now, so the training goes on with other random numbers"
    elif here > len(saved) and torch.cuda.is_initialized():
        changed = "those of the others stay as they are"
    else:
        return ()
    return (f"The random numbers of {len(saved)} CUDA devices were saved, {here} are here: {changed}.",)


def _numpy_state(saved: Any) -> tuple[Any, ...]:
    """What NumPy's set_state takes; ValueError or TypeError where it is not a Mersenne Twister's state."""
    import numpy as np

    key, position, has_gauss, gauss = saved
    state = ("MT19937", np.frombuffer(key, dtype=np.uint32), int(position), int(has_gauss), float(gauss))
    np.random.RandomState().set_state(state)
    return state

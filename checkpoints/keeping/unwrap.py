"""Unwrapping: a model's own keys, whatever training wrapped around it or around a part of it.

DistributedDataParallel, DataParallel and torch.compile put the model into one of their own attributes, and so does the
AveragedModel of an EMA, which counts beside it. The wrappers are found by their classes, not by their names in the keys: a model
may have a part that is called `module` itself.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from checkpoints.errors import KeeperError

if TYPE_CHECKING:
    import torch

_ATTRIBUTES = (
    ("torch.nn.parallel.distributed", "DistributedDataParallel", "module"),
    ("torch.nn.parallel.data_parallel", "DataParallel", "module"),
    ("torch._dynamo.eval_frame", "OptimizedModule", "_orig_mod"),
    ("torch.optim.swa_utils", "AveragedModel", "module"),
)
"""(module, class, the attribute that holds what it wraps); what was never imported wraps nothing."""

_AVERAGED = ("torch.optim.swa_utils", "AveragedModel")
_COUNTER = "n_averaged"
_SHARDED = ("torch.distributed.fsdp.fully_sharded_data_parallel", "FullyShardedDataParallel")


@dataclass(frozen=True, slots=True)
class Wrappers:
    """The wrappers in a model: the paths that belong to them and not to the model, such as `module` and `encoder._orig_mod`.

    `counters` are the keys that AveragedModels count under.
    """

    dropped: frozenset[str]
    counters: frozenset[str]

    def key(self, path: str) -> str:
        """The path of a tensor or a module as the model itself has it."""
        if not self.dropped:
            return path
        kept: list[str] = []
        reached = ""
        for component in path.split(".") if path else ():
            reached = f"{reached}.{component}" if reached else component
            if reached not in self.dropped:
                kept.append(component)
        return ".".join(kept)


def wrappers_of(model: "torch.nn.Module") -> Wrappers:
    """Find the wrappers anywhere in a model.

    Raises KeeperError where it is sharded by FSDP: no process has all of it.
    """
    kinds = [(kind, attribute) for module, name, attribute in _ATTRIBUTES if (kind := _imported(module, name))]
    sharded, averaged = _imported(*_SHARDED), _imported(*_AVERAGED)
    dropped: set[str] = set()
    counters: set[str] = set()
    for path, module in _modules(model, ""):
        if sharded is not None and isinstance(module, sharded):
            raise KeeperError(
                f"The model is sharded by FSDP{f' at {path[:-1]}' if path else ''}: no process has all of its weights. "
                "Gather them first (torch.distributed.checkpoint.state_dict, full_state_dict=True) into a model of its own."
            )
        for kind, attribute in kinds:
            if isinstance(module, kind):
                dropped.add(f"{path}{attribute}")
        if averaged is not None and isinstance(module, averaged):
            counters.add(f"{path}{_COUNTER}")
    return Wrappers(frozenset(dropped), frozenset(counters))


def _imported(module: str, name: str) -> Any:
    return getattr(sys.modules.get(module), name, None)


def _modules(module: "torch.nn.Module", path: str) -> Iterator[tuple[str, Any]]:
    """Every module with its path and a dot, "" for the first; one that stands in two places comes twice, as in a state_dict."""
    yield path, module
    for name, child in module._modules.items():  # noqa: SLF001 - as nn.Module.state_dict walks; children() leaves repeated ones out
        if child is not None:
            yield from _modules(child, f"{path}{name}.")

"""Batches: which rows of a data set come next, for training loops that go on where they were, in the middle of an epoch too."""

import hashlib
import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from checkpoints.errors import KeeperError, KeysDoNotMatch

if TYPE_CHECKING:
    import torch


class Batches:
    """Batches of row numbers; iterating gives what is left of an epoch, and the next iteration is the next epoch.

        for epoch in range(batches.epoch, EPOCHS):
            for rows in batches:
                loss = criterion(model(images[rows]), labels[rows])
                ...
                keeper.save(step, model, optimizer, extra={"batches": batches})

    Each epoch's order follows from `seed` and the epoch alone, whatever else draws random numbers. A state that is taken in the
    loop's body counts the batch in hand as done. With `shuffle=False` the rows come in their own order; with `drop_last=True` a
    last batch that is not full is left out.

    Raises KeeperError where a number does not fit.
    """

    def __init__(self, length: int, batch_size: int, seed: int = 0, *, shuffle: bool = True, drop_last: bool = False) -> None:
        if length < 1 or batch_size < 1:
            raise KeeperError(f"length is {length} and batch_size {batch_size}; both are expected from 1 on.")
        self._settings = {
            "length": int(length),
            "batch_size": int(batch_size),
            "seed": int(seed),
            "shuffle": bool(shuffle),
            "drop_last": bool(drop_last),
        }
        self._count = length // batch_size if drop_last else math.ceil(length / batch_size)
        if not self._count:
            raise KeeperError(f"length is {length}, which makes no full batch of {batch_size}, and drop_last is set.")
        self._epoch = 0
        self._done = 0

    @property
    def epoch(self) -> int:
        """The epoch that is iterated over, or else the one that comes next; the first is 0."""
        return self._epoch

    @property
    def done(self) -> int:
        """How many batches of this epoch were given."""
        return self._done

    def __len__(self) -> int:
        """The batches of a whole epoch."""
        return self._count

    def __iter__(self) -> "Iterator[torch.Tensor]":
        """What is left of the epoch, each batch as (rows,) int64 on the CPU."""
        epoch, order = self._epoch, self._order()
        batch_size = self._settings["batch_size"]
        while self._epoch == epoch and self._done < self._count:
            begin = self._done * batch_size
            self._done += 1
            yield order[begin : begin + batch_size]
        if self._epoch == epoch:
            self._epoch, self._done = epoch + 1, 0

    def state_dict(self) -> dict[str, Any]:
        """The place reached, and the settings that it belongs to."""
        return {**self._settings, "epoch": self._epoch, "done": self._done}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on at the place that `state_dict` gave.

        Raises KeysDoNotMatch where it belongs to other settings: the rows would be others.
        """
        differing = [name for name, value in self._settings.items() if state.get(name) != value]
        if differing:
            told = ", ".join(f"{name} was {state.get(name)!r} and is {self._settings[name]!r}" for name in differing)
            raise KeysDoNotMatch(f"The batches were saved with other settings: {told}. Make them with the same ones.")
        epoch, done = state.get("epoch"), state.get("done")
        if type(epoch) is not int or type(done) is not int or epoch < 0 or not 0 <= done <= self._count:
            raise KeysDoNotMatch(f"The batches' place is epoch {epoch!r}, {done!r} done; an epoch has {self._count} batches.")
        self._epoch, self._done = epoch, done

    def _order(self) -> "torch.Tensor":
        import torch

        if not self._settings["shuffle"]:
            return torch.arange(self._settings["length"])
        digest = hashlib.sha256(f"{self._settings['seed']} {self._epoch}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
        return torch.randperm(self._settings["length"], generator=generator)

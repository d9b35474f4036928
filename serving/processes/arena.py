"""Shared memory between one front end and one engine process, and which of it is free.

Only the front end hands out places and takes them back: nothing about that is shared, so no death leaves anything to repair.
"""

import mmap
import os
from bisect import bisect_left

PLACE_BYTES = 64
"""Every place begins at a multiple of this: a cache line, and more than any element's alignment."""


class Places:
    """The free parts of so many bytes. The lowest that fits is taken first, so that little memory is ever touched."""

    def __init__(self, size_bytes: int) -> None:
        self._starts = [0]  # of the free parts, ascending; no two of them touch
        self._sizes = [size_bytes - size_bytes % PLACE_BYTES]
        self.size_bytes = self._sizes[0]
        self._highest = 0

    def take(self, size_bytes: int) -> int | None:
        """Where so many bytes (rounded up to whole places) are free: an offset, taken from now on; None where there are not."""
        needed = rounded(size_bytes)
        for index, free in enumerate(self._sizes):
            if free >= needed:
                start = self._starts[index]
                if free == needed:
                    del self._starts[index], self._sizes[index]
                else:
                    self._starts[index] += needed
                    self._sizes[index] -= needed
                self._highest = max(self._highest, start + needed)
                return start
        return None

    def give_back(self, start: int, size_bytes: int) -> None:
        """Frees what `take(size_bytes)` gave."""
        starts, sizes, size = self._starts, self._sizes, rounded(size_bytes)
        index = bisect_left(starts, start)
        if index < len(starts) and start + size == starts[index]:
            size += sizes.pop(index)
            del starts[index]
        if index and starts[index - 1] + sizes[index - 1] == start:
            sizes[index - 1] += size
        else:
            starts.insert(index, start)
            sizes.insert(index, size)

    def highest(self) -> int:
        """The end of the highest place that was taken at any time since this was last asked."""
        highest = self._highest
        ends_free = bool(self._sizes) and self._starts[-1] + self._sizes[-1] == self.size_bytes
        self._highest = self._starts[-1] if ends_free else self.size_bytes
        return highest

    @property
    def is_empty(self) -> bool:
        """Whether nothing is taken."""
        return self._sizes == [self.size_bytes]


class Arena:
    """Memory that a front end makes and shares by its descriptor. It is sparse: what was never touched takes none.

    `memory` lives as long as an array in it does, whoever closes what. Where a place is, other bytes may have been, or none.
    """

    def __init__(self, size_bytes: int) -> None:
        self.descriptor = os.memfd_create("stateserve-slots", os.MFD_CLOEXEC)
        try:
            os.ftruncate(self.descriptor, size_bytes)
            self.memory = mmap.mmap(self.descriptor, size_bytes)
        except BaseException:
            os.close(self.descriptor)
            raise
        self.places = Places(size_bytes)
        self._touched_bytes = 0

    def trim(self) -> None:
        """Gives the system what no place has been in since this was last called: a burst does not keep its memory for ever."""
        highest = -(-self.places.highest() // mmap.PAGESIZE) * mmap.PAGESIZE
        if highest < self._touched_bytes:
            self.memory.madvise(mmap.MADV_REMOVE, highest, self._touched_bytes - highest)
        self._touched_bytes = highest

    def close_descriptor(self) -> None:
        """When the other process has it."""
        os.close(self.descriptor)


def mapped(descriptor: int) -> mmap.mmap:
    """The arena behind a descriptor that another process sent, which is closed."""
    try:
        return mmap.mmap(descriptor, os.fstat(descriptor).st_size)
    finally:
        os.close(descriptor)


def rounded(size_bytes: int) -> int:
    """As many bytes as the places that hold so many; one place at least."""
    return max(PLACE_BYTES, -(-size_bytes // PLACE_BYTES) * PLACE_BYTES)

"""Shared memory: what is handed out never overlaps, and comes back whole."""

import os

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from serving.processes.arena import PLACE_BYTES, Arena, Places, mapped, rounded


@given(st.lists(st.one_of(st.integers(0, 2000), st.floats(0, 1)), max_size=200))
def test_places_never_overlap_and_all_come_back(steps):
    """Whatever is taken and given back in any order: no two places overlap, and all given back is as at the beginning."""
    places, held = Places(1 << 14), {}
    for step in steps:
        if isinstance(step, int):
            start = places.take(step)
            if start is not None:
                assert start % PLACE_BYTES == 0
                assert all(start + rounded(step) <= other or other + rounded(size) <= start for other, size in held.items())
                assert start + rounded(step) <= places.size_bytes
                held[start] = step
        elif held:
            start = sorted(held)[int(step * (len(held) - 1))]
            places.give_back(start, held.pop(start))
    for start, size in held.items():
        places.give_back(start, size)
    assert places.is_empty


def test_the_lowest_free_place_is_taken_first():
    """Slots that come and go use the same memory again; what never fits is not given."""
    places = Places(1 << 12)
    first, second, third = (places.take(100) for _ in range(3))
    assert [first, second, third] == [0, 128, 256]
    places.give_back(0, 100)
    places.give_back(128, 100)
    assert places.take(200) == 0
    assert places.take(64) == 384
    assert places.take(1 << 12) is None


def test_the_highest_place_since_it_was_asked_for():
    """It is what was taken meanwhile, given back or not, and what still is."""
    places = Places(1 << 10)
    first, second = places.take(64), places.take(128)
    assert (first, second) == (0, 64)
    places.give_back(64, 128)
    assert (places.highest(), places.highest()) == (192, 64)
    places.give_back(0, 64)
    assert (places.highest(), places.highest()) == (64, 0)
    places.take(1 << 10)
    assert (places.highest(), places.highest()) == (1 << 10, 1 << 10)


def test_two_mappings_are_the_same_memory():
    """What one side writes, the other reads; the memory is there as long as an array in it, and takes only what was touched."""
    arena = Arena(1 << 30)
    other = mapped(os.dup(arena.descriptor))
    arena.close_descriptor()
    np.ndarray((4,), np.float32, arena.memory, 64)[:] = [1, 2, 3, 4]
    seen = np.ndarray((4,), np.float32, other, 64)
    del other, arena
    assert seen.tolist() == [1, 2, 3, 4]

"""Freed memory goes back to the system."""

import sys
from pathlib import Path

import pytest

from foundation.memory import give_back_freed_memory


def resident_kb():
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0])


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc is asked")
def test_freed_memory_is_given_back():
    """Small blocks that were freed below one that is kept stay in the process, until they are given back."""
    blocks = [bytes(20_000) for _ in range(5000)]  # 100 MB, each below the size that is mapped by itself
    kept = blocks[-1]
    del blocks
    before = resident_kb()
    give_back_freed_memory()
    assert resident_kb() <= before
    assert len(kept) == 20_000
    assert before - resident_kb() > 50_000

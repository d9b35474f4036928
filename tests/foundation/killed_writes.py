"""Kills a write at its n-th step, for every n: run by test_storage.py, in a process of its own that may fork.

Every call that changes the disk is counted. In each child the n-th one ends the child by SIGKILL, before or after doing its work,
or, for a write of bytes, after half of it. Prints one JSON line per kill; the last child survives.
"""

import json
import os
import pathlib
import signal
import sys
from typing import Any

from foundation import storage

FILES = {"manifest.json": b"{}" * 10, "model.onnx": bytes(range(256)) * 300, "golden.safetensors": b"g" * 7}


class Steps:
    """Counts steps, and kills its process at the fatal one."""

    def __init__(self, fatal, when, report):
        self.fatal, self.when, self.report, self.count = fatal, when, report, 0

    def die(self, name):
        os.write(self.report, f"{name}\n".encode())
        os.kill(os.getpid(), signal.SIGKILL)

    def counted(self, name, real, half=None):
        """`real` as a step; `half` does half of its work."""

        def call(*args, **kwargs):
            self.count += 1
            mine = self.count == self.fatal  # a step may hold others: mkdir makes the parents first
            if mine and self.when == "half" and half is not None:
                half(*args)
            elif not mine or self.when != "before":
                result = real(*args, **kwargs)
                if not mine:
                    return result
            return self.die(name)

        return call


class CountedFile:
    """An open file whose writes are steps."""

    def __init__(self, file, steps):
        self.file, self.fileno = file, file.fileno
        self.write = steps.counted("write", file.write, self.write_half)
        self.flush = file.flush

    def write_half(self, data):
        self.file.write(data[: len(data) // 2])
        self.file.flush()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()


def arm(steps):
    """Replaces every call that changes the disk by one that is counted."""
    path: Any = pathlib.Path
    real_open = path.open

    def open_file(self, mode="r", **kwargs):
        file = real_open(self, mode, **kwargs)
        return CountedFile(file, steps) if set(mode) & set("wxa+") else file

    path.open = steps.counted("open", open_file)
    path.mkdir = steps.counted("mkdir", path.mkdir)
    path.rename = steps.counted("rename", path.rename)
    os.open = steps.counted("os.open", os.open)
    os.fsync = steps.counted("fsync", os.fsync)


def killed(target, fatal, when):
    """Writes in a child that is to be killed at a step; the step's name, or None if the child survived."""
    reader, report = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        arm(Steps(fatal, when, report))
        storage.write_directory(target, FILES)
        os._exit(0)
    os.close(report)
    with os.fdopen(reader) as lines:
        step = lines.read().strip() or None
    _, status = os.waitpid(child, 0)
    if (step is None) != (status == 0):
        sys.exit(f"the child failed at step {fatal}: {step}, status {status}")
    return step


def state(target):
    """What a reader finds: nothing, the whole directory, or a torn one."""
    if not target.exists():
        return "absent"
    return "whole" if {path.name: path.read_bytes() for path in target.iterdir()} == FILES else "torn"


def kill_one(target, fatal, when):
    """One kill, what it left, and what the next write made of it."""
    step = killed(target, fatal, when)
    found = state(target)
    left = sum(1 for _ in target.parent.glob(".*"))
    try:
        storage.write_directory(target, FILES)
        again = "written"
    except FileExistsError:
        again = "exists"
    after = sorted(path.name for path in target.parent.iterdir())
    kill = {"when": when, "n": fatal, "step": step, "found": found, "left": left, "again": again, "after": after}
    sys.stdout.write(json.dumps({**kill, "end": state(target)}) + "\n")
    sys.stdout.flush()  # before the next fork
    return step


def main(root):
    for when in ("before", "half", "after"):
        fatal = 1
        while kill_one(root / f"{when}-{fatal}" / "net" / "1", fatal, when) is not None:
            fatal += 1


main(pathlib.Path(sys.argv[1]))

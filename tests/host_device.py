"""The CPU in the place of a CUDA device: what the code around a device does is the same, and tests look on."""

from contextlib import contextmanager

import torch

from artifact.engines import EngineOptions
from artifact.engines.cuda.program import CudaProgram, Device


class HostStreams:
    """Runs at once what is queued, and writes down in which order; a captured function runs again into the same answers."""

    def __init__(self, refuses=None):
        self.seen, self.refuses, self.is_strict = [], refuses, False

    @contextmanager
    def uploading(self):
        self.seen.append("upload")
        yield

    @contextmanager
    def computing(self):
        self.seen.append("compute")
        yield

    @contextmanager
    def never_waiting(self):
        """As on a device, a program that reads a value back fails: here, by what it is told."""
        self.is_strict = True
        try:
            yield
        finally:
            self.is_strict = False

    def warm(self, function):
        self.seen.append("warm")
        function()

    def capture(self, function):
        if self.refuses is not None:
            raise self.refuses
        self.seen.append("capture")
        answers = function()

        def replay():
            self.seen.append("replay")
            for place, answer in zip(answers, function(), strict=True):
                place.copy_(answer)

        return replay, answers

    def finish(self):
        self.seen.append("finish")


class HostMemory:
    """Memory that runs out where an error says so, and counts what was given back."""

    def __init__(self):
        self.released = 0

    def ran_out(self, error):
        return isinstance(error, torch.OutOfMemoryError)

    def release(self):
        self.released += 1


def host_device(lanes=1, refuses=None):
    return Device(torch.device("cpu"), HostMemory(), [HostStreams(refuses) for _ in range(lanes)], pinned=False)


def host_program(call, signature, device=None, **options):
    """`call` is the program, in any layout."""
    return loaded_program(lambda _: call, signature, device, **options)


def loaded_program(load, signature, device=None, **options):
    """`load` makes the program in a layout."""
    return CudaProgram(load, signature, EngineOptions(device="cuda:0", **options), device or host_device())

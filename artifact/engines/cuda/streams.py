"""One lane's streams: what it uploads and computes is ordered by events, and overlaps with what other lanes do.

Nothing here can run on a CPU, and nothing here was run on a device yet. Source of the capture's steps (runs before it on the same
stream, a pool that is shared by graphs which never run at once): https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs
"""

import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

import torch

Answers = list[torch.Tensor]

_WARM_UPS = 2
"""Runs before a capture: in the first, libraries choose their kernels and take their workspaces."""

capturing = threading.Lock()
"""A process captures one graph at a time, and PyTorch gives no memory back meanwhile."""


class Streams(Protocol):
    """Where one lane's work is queued."""

    def uploading(self) -> AbstractContextManager[None]:
        """While it is open, copies to the device are queued."""
        ...

    def computing(self) -> AbstractContextManager[None]:
        """While it is open, work is queued behind what was uploaded: kernels, and copies of their answers."""
        ...

    def never_waiting(self) -> AbstractContextManager[None]:
        """While it is open, what would wait for the device raises RuntimeError, in whichever thread: a capture would fail."""
        ...

    def warm(self, function: Callable[[], Answers]) -> None:
        """Runs what is to be captured, and waits for it."""
        ...

    def capture(self, function: Callable[[], Answers]) -> tuple[Callable[[], None], Answers]:
        """What queues the function's kernels again, and the tensors that they write their answers to."""
        ...

    def finish(self) -> None:
        """Waits until all that was queued is done."""
        ...


class CudaStreams:
    """The streams of a CUDA device."""

    def __init__(self, device: torch.device) -> None:
        self._upload, self._compute = torch.cuda.Stream(device), torch.cuda.Stream(device)
        self._uploaded = torch.cuda.Event()
        # Waiting for it sleeps: PyTorch's usual event burns a core until the device is done.
        self._done = torch.cuda.Event(blocking=True)
        self._pool = torch.cuda.graph_pool_handle()

    @contextmanager
    def uploading(self) -> Iterator[None]:
        """See `Streams.uploading`. What is written to was last used by a call that has finished: nothing is waited for."""
        with torch.cuda.stream(self._upload):
            try:
                yield
            finally:
                self._uploaded.record(self._upload)

    @contextmanager
    def computing(self) -> Iterator[None]:
        """See `Streams.computing`."""
        with torch.cuda.stream(self._compute):
            self._compute.wait_event(self._uploaded)
            yield

    @contextmanager
    def never_waiting(self) -> Iterator[None]:
        """See `Streams.never_waiting`."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # PyTorch says that it does not find all that would wait
            torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode("default")

    def warm(self, function: Callable[[], Answers]) -> None:
        """See `Streams.warm`."""
        with self.computing():
            for _ in range(_WARM_UPS):
                function()
            self._compute.synchronize()

    def capture(self, function: Callable[[], Answers]) -> tuple[Callable[[], None], Answers]:
        """See `Streams.capture`. The lane's graphs share their memory: no two of them run at once.

        Raises:
            RuntimeError: the program does what cannot be captured. PyTorch's allocator may hold that capture for unfinished from
                then on, and give nothing back: so what waits for the device is found before, see `never_waiting`.
        """
        graph = torch.cuda.CUDAGraph()
        # The stream is entered here, too: where a capture fails, PyTorch's own context leaves the thread on its stream.
        # "thread_local": what other lanes' threads do meanwhile is none of this capture's business.
        with (
            capturing,
            torch.cuda.stream(self._compute),
            torch.cuda.graph(graph, pool=self._pool, stream=self._compute, capture_error_mode="thread_local"),
        ):
            answers = function()
        return graph.replay, answers

    def finish(self) -> None:
        """See `Streams.finish`. It lets other threads run meanwhile."""
        self._compute.wait_event(self._uploaded)  # a call that failed may have computed nothing behind its upload
        self._done.record(self._compute)
        self._done.synchronize()

"""One front end, as an engine process sees it: its requests are views of its memory, and their outputs are written there."""

import asyncio
import mmap  # noqa: TC003 - as every import: at the top
import socket
import time
from collections.abc import Callable

import numpy as np

from artifact.errors import DeviceLost, EngineFailed
from serving.batcher import Batcher, Job
from serving.errors import QueueFull
from serving.processes.arena import PLACE_BYTES, mapped
from serving.processes.remote_errors import numbered
from serving.processes.slots import BEGUN, DONE, HELLO, PUT, Layout, Slots
from serving.processes.stream import Stream
from serving.protocols.asked import Arrays

_SOON_S = 1e-6
"""What is left of a deadline that passed on the way."""


def _give_up(error: DeviceLost) -> None:
    """Ends the process, as what goes wrong in the middle of a request does."""
    raise error


class Reply(asyncio.Future[Arrays]):
    """The future of a job from a front end: its outcome is told there. Nobody waits for it here.

    An error is told when no call has rows of the job any more: its slot is then another's. (A part of a job that was divided may
    run while another part fails.)
    """

    __slots__ = ("error", "intake", "layout", "running", "start")

    def __init__(self, intake: "Intake", start: int, layout: Layout, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop=loop)
        self.intake = intake
        self.start = start
        self.layout = layout
        self.running = 0
        self.error: BaseException | None = None

    def note_call(self, change: int) -> None:
        """See `Job.on_call`."""
        self.running += change
        if change > 0:
            self.intake.mark(self)
        elif self.error is not None and not self.running:
            self.intake.fail(self, self.error)
            self.error = None

    def set_result(self, result: Arrays) -> None:
        """Tells the outputs."""
        self.intake.answer(self, result)
        super().set_result({})

    def set_exception(self, exception: type[BaseException] | BaseException, /) -> None:
        """Tells the error; the future has none, since nobody asks it."""
        error = exception() if isinstance(exception, type) else exception
        if self.running:
            self.error = error
        else:
            self.intake.fail(self, error)
        super().set_result({})


class Intake:
    """A front end's connection, on the event loop: gives its jobs to the batcher, and it their outcomes.

    When the front end ends, what of its jobs still waits is dropped; what runs finishes into memory that nobody sees.
    """

    def __init__(self, sock: socket.socket, slots: Slots, batcher: Batcher, ended: Callable[["Intake"], None]) -> None:
        """`ended` is called when the front end has ended. The socket is closed at the end."""
        sock.setblocking(False)  # noqa: FBT003 - the socket's own interface
        self._socket = sock
        self._slots = slots
        self._batcher = batcher
        self._ended = ended
        self._loop = asyncio.get_running_loop()
        self._jobs: dict[int, Job] = {}
        self._memory: mmap.mmap | None = None
        self._stream: Stream | None = None
        self._loop.add_reader(sock, self._greeted)

    def mark(self, reply: Reply) -> None:
        """From now on the job is not to be given to another engine process, should this one end."""
        if self._memory is not None:
            self._memory[reply.start] = BEGUN

    def answer(self, reply: Reply, outputs: Arrays) -> None:
        """Writes outputs into the job's slot, and tells of them."""
        try:
            shapes = self._written(reply, outputs)
        except EngineFailed as error:
            self.fail(reply, error)
            return
        self._tell(reply, DONE, b"", 0, shapes)

    def fail(self, reply: Reply, error: BaseException) -> None:
        """Tells of an error."""
        if isinstance(error, DeviceLost):  # so would every other call: control starts another process
            self._loop.call_soon(_give_up, error)
        kind, text, retry_after_s = numbered(error)
        self._tell(reply, kind, text.encode(), retry_after_s, [0] * self._slots.shapes[-1].stop)

    def close(self) -> None:
        """Ends the connection; nobody hears any more."""
        if self._stream is None:
            self._loop.remove_reader(self._socket)
            self._socket.close()
        else:
            self._stream.close()
        self._drop()

    def _greeted(self) -> None:
        """The first thing a front end sends is its arena."""
        try:
            data, descriptors, _, _ = socket.recv_fds(self._socket, HELLO.size, 1)
        except BlockingIOError:
            return
        except OSError:
            data, descriptors = b"", []
        self._loop.remove_reader(self._socket)
        if not data:
            self._socket.close()
            self._end()
            return
        if not descriptors:
            raise RuntimeError("a front end's memory was lost on its way: as many files are open as may be (ulimit -n)")
        self._memory = mapped(descriptors[0])
        self._stream = Stream(self._socket, self._take_asked, self._end)

    def _take_asked(self, data: bytes) -> int:
        record = self._slots.asked
        whole = len(data) - len(data) % record.size
        for kind, level, place, deadline, *sizes in record.iter_unpack(memoryview(data)[:whole]):
            if kind == PUT:
                self._put(place * PLACE_BYTES, level, deadline, self._slots.layout(tuple(sizes)))
            elif (job := self._jobs.get(place * PLACE_BYTES)) is not None:
                self._batcher.leave(job)
        return whole

    def _put(self, start: int, level: int, deadline: float, layout: Layout) -> None:
        memory = self._memory
        inputs = {name: np.ndarray(shape, dtype, memory, start + at) for name, shape, dtype, at in layout.inputs}
        reply = Reply(self, start, layout, self._loop)
        job = Job(inputs, layout.rows, layout.group, reply, level, on_call=reply.note_call)
        if deadline:
            job.timeout_s = max(deadline - time.perf_counter(), _SOON_S)
        self._jobs[start] = job
        try:
            self._batcher.put(job)
        except QueueFull as error:
            reply.set_exception(error)

    def _written(self, reply: Reply, outputs: Arrays) -> list[int]:
        """The outputs' shapes, one after the other, when they are in the slot.

        Raises:
            EngineFailed: an output is missing, or not what the signature says, or larger than it says.
        """
        shapes: list[int] = []
        memory = self._memory
        if memory is None:
            return shapes
        for (name, dtype, at, room_bytes), where in zip(reply.layout.outputs, self._slots.shapes, strict=True):
            output = outputs.get(name)
            if output is None or output.dtype != dtype or output.ndim != where.stop - where.start:
                found = "missing" if output is None else f"of {output.dtype} and shape {list(output.shape)}"
                raise EngineFailed(f'output "{name}" is {found}, which is not what the signature says')
            if output.nbytes > room_bytes:
                raise EngineFailed(f'output "{name}" has {output.nbytes} bytes; by the signature it has {room_bytes} at most')
            np.copyto(np.ndarray(output.shape, dtype, memory, reply.start + at), output)
            shapes += output.shape
        return shapes

    def _tell(self, reply: Reply, kind: int, text: bytes, retry_after_s: int, shapes: list[int]) -> None:
        job = self._jobs.pop(reply.start, None)
        if job is None or self._stream is None or self._memory is None:  # the front end has ended
            return
        place = reply.start // PLACE_BYTES
        record = self._slots.answered.pack(kind, retry_after_s, place, len(text), job.started_at, job.ended_at, *shapes)
        self._stream.send(record + text if text else record)

    def _end(self) -> None:
        self._drop()
        self._ended(self)

    def _drop(self) -> None:
        self._memory = None
        for job in list(self._jobs.values()):
            self._batcher.leave(job)
        self._jobs.clear()

"""The engine processes of one version, as a front end sees them: rows go into shared memory, and outputs come out of it."""

import asyncio
import contextlib
import itertools
import socket
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from operator import attrgetter

import numpy as np

from artifact.signature import Signature
from serving.batcher import Job
from serving.errors import BodyTooLarge, ClientLeft, EngineLost, QueueFull
from serving.processes.arena import PLACE_BYTES, Arena
from serving.processes.remote_errors import error_of
from serving.processes.slots import BEGUN, DONE, HELLO, LEAVE, PUT, WAITS, Layout, Slots
from serving.processes.stream import Stream
from serving.protocols.asked import Arrays

_COPIED_BYTES = 64 << 10
"""An output up to here is copied out of its slot, which is free at once. A larger one is lent, until nobody holds it any more."""

_TRIM_S = 10.0
"""So often, memory that no slot has needed since the last time is given back to the system."""

_MOST_CALLS = 2
"""Calls that an engine process runs at a time: their rows do not wait any more."""


class Sent:
    """A job that an engine process has: where its slot is.

    `is_second`: another process had ended before it began with it. `has_left`: its client does not wait any more.
    """

    __slots__ = ("channel", "deadline", "has_left", "is_second", "job", "layout", "start")

    def __init__(self, job: Job, channel: "Channel", deadline: float, *, is_second: bool) -> None:
        self.job = job
        self.channel = channel
        self.deadline = deadline
        self.is_second = is_second
        self.has_left = False


class Lent(weakref.ref[np.ndarray]):
    """An output in a slot that somebody reads; it dies with the last array that shows any of it, in whichever thread."""

    __slots__ = ("slot_bytes", "start")

    start: int
    slot_bytes: int


class Channel:
    """One engine process: a socket and an arena. `rows` are those that it has and has not answered."""

    def __init__(
        self, sock: socket.socket, slots: Slots, arena_bytes: int, lost: Callable[["Channel", Sequence[Sent]], None]
    ) -> None:
        """`lost` is called when the process has ended, with all that it had not answered."""
        self._slots = slots
        self._lost = lost
        self._arena = arena = Arena(arena_bytes)
        self._loop = asyncio.get_running_loop()
        self._trimming = self._loop.call_later(_TRIM_S, self._trim)
        self._memory = arena.memory
        self._places = arena.places
        self._sent: dict[int, Sent] = {}
        self._lent: dict[int, list[Lent]] = {}
        self._returned: deque[Lent] = deque()
        self.rows = 0
        sock.setblocking(False)  # noqa: FBT003 - the socket's own interface
        self._stream = Stream(sock, self._take_answers, self._end)
        with contextlib.suppress(OSError):  # it has ended already, as reading will tell
            socket.send_fds(sock, [HELLO.pack(arena_bytes)], [arena.descriptor])
        arena.close_descriptor()

    def put(self, sent: Sent, layout: Layout) -> bool:
        """Writes a job's rows into a slot, and tells of it; False where no slot is free."""
        start = self._taken(layout.slot_bytes)
        if start is None:
            return False
        memory, job = self._memory, sent.job
        memory[start] = WAITS
        try:
            for name, shape, dtype, at in layout.inputs:
                np.copyto(np.ndarray(shape, dtype, memory, start + at), job.inputs[name])
        except BaseException:
            self._places.give_back(start, layout.slot_bytes)
            raise
        sent.start, sent.layout = start, layout
        self._sent[start] = job.sent = sent
        self.rows += layout.rows
        self._stream.send(self._slots.asked.pack(PUT, job.level, start // PLACE_BYTES, sent.deadline, *layout.sizes))
        return True

    def leave(self, sent: Sent) -> None:
        """Nobody waits for the job any more; its slot is free when the engine process has said so."""
        sent.has_left = True
        self._stream.send(self._slots.asked.pack(LEAVE, 0, sent.start // PLACE_BYTES, 0.0, *sent.layout.sizes))

    def has_begun(self, sent: Sent) -> bool:
        """Whether the engine was given the job."""
        return self._memory[sent.start] == BEGUN

    def close(self) -> list[Sent]:
        """Ends the connection; what was not answered."""
        self._stream.close()
        self._trimming.cancel()
        unanswered = list(self._sent.values())
        self._sent.clear()
        self.rows = 0
        return unanswered

    def _end(self) -> None:
        self._lost(self, self.close())

    def _trim(self) -> None:
        self._take_back()
        self._arena.trim()
        self._trimming = self._loop.call_later(_TRIM_S, self._trim)

    def _taken(self, slot_bytes: int) -> int | None:
        self._take_back()
        return self._places.take(slot_bytes)

    def _take_back(self) -> None:
        """Frees the slots whose outputs nobody holds any more."""
        while self._returned:
            returned = self._returned.popleft()
            lent = self._lent[returned.start]
            lent.remove(returned)
            if not lent:
                del self._lent[returned.start]
                self._places.give_back(returned.start, returned.slot_bytes)

    def _take_answers(self, data: bytes) -> int:
        answered = self._slots.answered
        at, last = 0, len(data) - answered.size
        while at <= last:
            kind, retry_after_s, place, text_bytes, began, ended, *shapes = answered.unpack_from(data, at)
            end = at + answered.size + text_bytes
            if end > len(data):
                break
            sent = self._sent.pop(place * PLACE_BYTES)
            job = sent.job
            job.sent = None
            job.started_at, job.ended_at = began, ended
            self.rows -= sent.layout.rows
            if kind == DONE:
                self._done(sent, shapes)
            else:
                self._places.give_back(sent.start, sent.layout.slot_bytes)
                if not job.future.done():
                    job.future.set_exception(error_of(kind, data[end - text_bytes : end].decode(), retry_after_s))
            at = end
        return at

    def _done(self, sent: Sent, shapes: Sequence[int]) -> None:
        layout, start, future = sent.layout, sent.start, sent.job.future
        outputs: Arrays = {}
        lent: list[Lent] = []
        if not future.done():  # its client waits
            for (name, dtype, at, _), where in zip(layout.outputs, self._slots.shapes, strict=True):
                output = np.ndarray(shapes[where], dtype, self._memory, start + at)
                if output.nbytes <= _COPIED_BYTES:
                    output = output.copy()
                else:
                    lent.append(self._lend(output, sent))
                outputs[name] = output
            future.set_result(outputs)
        if lent:
            self._lent[start] = lent
        else:
            self._places.give_back(start, layout.slot_bytes)

    def _lend(self, output: np.ndarray, sent: Sent) -> Lent:
        lent = Lent(output, self._returned.append)
        lent.start, lent.slot_bytes = sent.start, sent.layout.slot_bytes
        return lent


class Channels:
    """Where a version's jobs wait whose engine is in other processes: the same face as a `Batcher`'s, on the event loop.

    A job goes to the process that has the fewest rows of this front end. One that its process had not begun with when it ended
    goes to another, once; the others fail with EngineLost.
    """

    def __init__(self, signature: Signature, arena_bytes: int, max_queue_rows: int) -> None:
        """`arena_bytes` of shared memory for each process, at most."""
        self._slots = Slots(signature)
        self._arena_bytes = arena_bytes
        self._max_queue_rows = max_queue_rows
        most = 1 if signature.batch_dim is None else signature.dims[signature.batch_dim].max
        self._most_rows = max_queue_rows + _MOST_CALLS * most
        self._channels: dict[int, Channel] = {}
        self._turns = itertools.count()

    @property
    def on_loop(self) -> bool:
        """Never: calls run in other processes."""
        return False

    @property
    def queued_rows(self) -> int:
        """Rows that engine processes have and have not answered; those that run are among them."""
        return sum(channel.rows for channel in self._channels.values())

    def connect(self, engine: int, sock: socket.socket) -> None:
        """From now on, the engine process of this number, a new one, is asked, too. The socket is closed at the end."""

        def lost(channel: Channel, unanswered: Sequence[Sent]) -> None:
            del self._channels[engine]
            self._hand_on(channel, unanswered)

        self._channels[engine] = Channel(sock, self._slots, self._arena_bytes, lost)

    def run_alone(self, inputs: Arrays, rows: int) -> None:  # noqa: ARG002 - a Batcher's
        """No call runs here: every job has to be `put`."""
        return

    def put(self, job: Job) -> None:
        """Gives a job to an engine process; its future gives the outputs, or the error that is its own.

        Besides those of `Batcher.put` it may be EngineLost. Outputs are the caller's; large ones keep their slot from being used
        again while any array shows them.

        Raises:
            QueueFull: more rows wait than may, or no slot is free.
            EngineLost: no engine process is there.
            BodyTooLarge: so many rows fit no slot.
        """
        deadline = time.perf_counter() + job.timeout_s if job.timeout_s else 0.0
        self._put(job, deadline)

    def leave(self, job: Job) -> None:
        """The client left: what of the job still waits is dropped."""
        sent: Sent | None = job.sent
        if sent is not None:
            sent.channel.leave(sent)

    def close(self) -> None:
        """Lets the engine processes go. Nothing waits any more; what does, fails with EngineLost."""
        channels = list(self._channels.values())
        self._channels.clear()
        for channel in channels:
            self._hand_on(channel, channel.close())

    def _put(self, job: Job, deadline: float, *, is_second: bool = False) -> None:
        layout = self._slots.layout(self._slots.sizes(job.inputs))
        if layout.slot_bytes > self._arena_bytes:
            raise self._too_large(layout)
        channels = self._by_rows()
        for channel in channels:
            if channel.rows + job.rows <= self._most_rows and channel.put(
                Sent(job, channel, deadline, is_second=is_second), layout
            ):
                return
        raise self._full(channels, job.rows)

    def _by_rows(self) -> Sequence[Channel]:
        """The channels with the fewest rows first, and in turn where they have as many."""
        channels = list(self._channels.values())
        if len(channels) > 1:
            first = next(self._turns) % len(channels)
            channels = sorted([*channels[first:], *channels[:first]], key=attrgetter("rows"))
        elif not channels:
            raise EngineLost("no engine process of this version is there; one is being started: ask again")
        return channels

    def _full(self, channels: Sequence[Channel], rows: int) -> QueueFull:
        waiting = channels[0].rows
        if waiting + rows > self._most_rows:
            limit = self._max_queue_rows
            return QueueFull(f"{waiting} rows wait and {rows} more would be over max_queue_rows ({limit}); ask again later", 1)
        return QueueFull(f"{waiting} rows wait, and no slot of slots_bytes ({self._arena_bytes}) is free; ask again later", 1)

    def _too_large(self, layout: Layout) -> BodyTooLarge:
        return BodyTooLarge(
            f"a request of {layout.rows} rows needs {layout.slot_bytes} bytes of shared memory for its inputs and outputs; "
            f"slots_bytes is {self._arena_bytes}"
        )

    def _hand_on(self, channel: Channel, unanswered: Sequence[Sent]) -> None:
        """What an engine process had when it ended: what it had not begun goes to another one, once."""
        for sent in unanswered:
            job = sent.job
            job.sent = None
            if job.future.done():  # its request was given up
                continue
            if sent.has_left:
                job.future.set_exception(ClientLeft("the client left before its answer was there"))
                continue
            if channel.has_begun(sent) or sent.is_second:
                job.future.set_exception(EngineLost("the engine's process ended while it had the request; ask again"))
                continue
            try:
                self._put(job, sent.deadline, is_second=True)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is this request's, and the others go on
                job.future.set_exception(error)

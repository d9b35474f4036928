"""SIGTERM and SIGINT as a request: the training goes on to its next step boundary, saves, and only then ends."""

import signal
import threading
from types import FrameType
from typing import Any

from checkpoints.errors import KeeperError

WATCHED = (signal.SIGTERM, signal.SIGINT)


class SignalWatch:
    """Notes the first signal, and gives the second to whoever had it before.

    Raises KeeperError where it is not made in the main thread, which alone can have signal handlers.
    """

    def __init__(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            raise KeeperError(
                "save_on_signals=True needs the main thread: only there can Python notice signals. Make the Keeper in it."
            )
        self.received: int | None = None
        self._restored = False
        self._before: dict[int, Any] = {}
        for number in WATCHED:
            self._before[number] = signal.signal(number, self._note)

    def restore(self) -> None:
        """Put the handlers back that were there before; one that somebody set since is left alone.

        Where ours are put back later (by a trainer that had set its own meanwhile), they hand signals on at once.
        """
        self._restored = True
        for number in self._before:
            self._hand_back(number)

    def end(self) -> None:
        """Raise what the noted signal means, KeyboardInterrupt for SIGINT and SystemExit(143) for SIGTERM; or return."""
        received, self.received = self.received, None
        if received == signal.SIGINT:
            raise KeyboardInterrupt
        if received is not None:
            raise SystemExit(128 + received)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received is None and not self._restored:
            self.received = number
            return
        self.restore()
        before = self._before[number]
        if callable(before):
            before(number, frame)
        elif before != signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    def _hand_back(self, number: int) -> None:
        if signal.getsignal(number) == self._note:
            handler = self._before[number]
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)

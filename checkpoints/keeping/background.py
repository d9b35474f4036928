"""One write at a time beside the training: a thread of its own, an error kept until somebody asks."""

import logging
import threading
from collections.abc import Callable

_LOG = logging.getLogger("stateserve.checkpoints")


class Background:
    """Runs one job at a time; a second waits until the first is done.

    A job's thread is not a daemon: where a program ends without `wait`, the interpreter waits for the job, and nothing is torn.
    """

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def start(self, job: Callable[[], None]) -> None:
        """Begin a job; an earlier one is waited for. Raises what the earlier one raised; then this one is not begun."""
        self.wait()
        self._thread = threading.Thread(target=self._run, args=(job,), name="stateserve-keeper")
        self._thread.start()

    def wait(self) -> None:
        """Wait for the job, if there is one; raise what it raised, once."""
        if self._thread is not None:
            self._thread.join()  # after an interrupt here the next call waits again
            self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error

    @property
    def busy(self) -> bool:
        """Whether a job is running."""
        return self._thread is not None and self._thread.is_alive()

    def _run(self, job: Callable[[], None]) -> None:
        try:
            job()
        except BaseException as error:  # noqa: BLE001 - whatever it is, the training's own thread has to learn of it
            self._error = error
            if not threading.main_thread().is_alive():
                _LOG.error("A checkpoint was not written, and the program is ending: %s", error)

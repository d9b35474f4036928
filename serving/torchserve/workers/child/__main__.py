"""Starts TorchServe's own worker, unmodified, so that it ends with the server. `PARENT_PID`, then the worker's own arguments.

Two of the worker's surroundings are adapted before it starts, and nothing else:

- a handler finds a request's header however its name is spelled, since servers and proxies spell names as they like;
- the worker reads its socket through a buffer: it asks for every length and every name by a call of its own.

This file runs in the worker's Python, which may be one where this project is not installed: it imports only the standard library
and `ts`.
"""

import ctypes
import importlib.util
import os
import runpy
import signal
import socket
import sys
from pathlib import Path
from typing import Any

_PR_SET_PDEATHSIG = 1
_READ_AHEAD_BYTES = 1 << 16


class Headers(dict[str, Any]):
    """A request's headers: a name that is not there as it is spelled is looked for in any spelling."""

    def get(self, name: str, default: Any = None) -> Any:
        """The header's value, or `default`."""
        alike = name if dict.__contains__(self, name) else self._alike(name)
        return default if alike is None else dict.__getitem__(self, alike)

    def __contains__(self, name: object) -> bool:
        return dict.__contains__(self, name) or (isinstance(name, str) and self._alike(name) is not None)

    def __missing__(self, name: str) -> Any:
        alike = self._alike(name)
        if alike is None:
            raise KeyError(name)
        return dict.__getitem__(self, alike)

    def _alike(self, name: str) -> str | None:
        lower = name.lower()
        return next((key for key in self if key.lower() == lower), None)


class ReadAhead:
    """A socket's `recv`, from what was read ahead."""

    def __init__(self, connection: socket.socket) -> None:
        self.recv = connection.makefile("rb", _READ_AHEAD_BYTES).read


def end_with(parent: int) -> None:
    """Lets the system kill this process when the server ends, however it ends; where it has ended already, at once."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def adapt() -> None:
    """Gives the worker its two adaptations. It imports torch, by way of the worker's own modules."""
    from ts import service
    from ts.protocol import otf_message_handler

    found: Any = otf_message_handler
    retrieve, processor = found.retrieve_msg, service.RequestProcessor
    reader: dict[socket.socket, ReadAhead] = {}

    def retrieve_msg(connection: socket.socket) -> Any:
        if connection not in reader:
            reader[connection] = ReadAhead(connection)
        return retrieve(reader[connection])

    class AnySpelling(processor):
        def __init__(self, request_header: dict[str, Any]) -> None:
            super().__init__(Headers(request_header))

    found.retrieve_msg = retrieve_msg
    service.RequestProcessor = AnySpelling


def main() -> None:
    """Becomes the worker."""
    own = str(Path(__file__).resolve().parent)
    sys.path[:] = [entry for entry in sys.path if entry != own]
    end_with(int(sys.argv[1]))
    adapt()
    spec = importlib.util.find_spec("ts")
    if spec is None or spec.origin is None:
        raise SystemExit("ts, of the package torchserve, is not installed in this Python")
    worker = str(Path(spec.origin).with_name("model_service_worker.py"))
    sys.argv = [worker, *sys.argv[2:]]
    runpy.run_path(worker, run_name="__main__")


if __name__ == "__main__":
    main()

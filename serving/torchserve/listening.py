"""Whether this process listens where its settings say."""

import socket
import threading
import time
from collections.abc import Callable

import psutil

from serving.settings import Settings
from serving.torchserve.keys import Address, connectors

_LOOK_AGAIN_S = 0.02


def tell_when_listening(settings: Settings, started: Callable[[], None]) -> None:
    """Calls `started`, in a thread, when this process listens on every address."""
    threading.Thread(target=_wait, args=(settings, started), name="started", daemon=True).start()


def _wait(settings: Settings, started: Callable[[], None]) -> None:
    addresses = [where for where, _ in connectors(settings)]
    while not all(map(_listens, addresses)):
        time.sleep(_LOOK_AGAIN_S)
    started()


def _listens(where: Address) -> bool:
    """Whether one of this process's own sockets is there: another's would answer just so."""
    if where.scheme == "unix":
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            return probe.connect_ex(where.path) == 0
    found = psutil.Process().net_connections("tcp")
    return any(one.status == psutil.CONN_LISTEN and one.laddr[1:2] == (where.port,) for one in found)

"""The listener: granian inside our event loop, a port that is really ours, and an end that loses nothing."""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import stat
import sys
from collections.abc import Iterator

import uvloop
from granian.constants import HTTPModes, Interfaces
from granian.http import HTTP1Settings
from granian.log import LogLevels
from granian.server.embed import Server

from serving import logs
from serving.app import Running, create_app
from serving.errors import PortTaken, SettingsError
from serving.repository import Repository
from serving.rsgi import RsgiFace
from serving.settings import Settings

log = logging.getLogger("stateserve")

_LOOK_AGAIN_S = 0.01
_IDLE_END_S = 0.5
"""What granian is given to end even where nothing is in flight."""


def serve(settings: Settings) -> None:
    """Serves until SIGTERM or SIGINT; then for `drain_delay_s` longer, not ready any more, and until every request is answered.

    It listens from the start, and says that it is ready when every required model is. What still runs `drain_timeout_s` after the
    delay, or at a second signal, is cut off, and the process ends with code 1.

    Raises:
        SettingsError: the host has no address.
        PortTaken: another process listens there.
        NoRepository: the model repository is not a directory.
    """
    settings = settings.model_copy(update={"host": resolved(settings.host)})
    require_free(settings.host, settings.port)
    with claimed(settings.host, settings.port), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        if not runner.run(_serve(settings)):
            log.error("requests were cut off at a second signal, or %g s after the first", settings.drain_timeout_s)
            logging.shutdown()
            os._exit(1)  # an engine's call cannot be interrupted, and its thread would keep the process


def resolved(host: str) -> str:
    """The address of a host, an IPv4 one if it has any: granian takes addresses only. Raises SettingsError if it has none."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as cause:
        raise SettingsError(f"host is {host!r}, which has no address here: {cause.strerror}") from cause
    return str(min(found, key=lambda entry: entry[0] != socket.AF_INET)[4][0])


def require_free(host: str, port: int) -> None:
    """Raises PortTaken if the address cannot be bound: granian shares a taken port (SO_REUSEPORT) without a word."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as cause:
            raise PortTaken(
                f"{host}:{port} cannot be listened on: {cause.strerror}; end what listens there, or choose another --port"
            ) from cause


@contextlib.contextmanager
def claimed(host: str, port: int) -> Iterator[None]:
    """Holds the address against another server of ours that starts at the same moment, when neither listens yet.

    The name that it takes is of Linux' abstract sockets: it is seen where the port is, and gone with the process.

    Raises:
        PortTaken: another has it.
    """
    if sys.platform != "linux":
        yield
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as claim:
        try:
            claim.bind(f"\0stateserve-{host}-{port}")
        except OSError as cause:
            raise PortTaken(f"{host}:{port} belongs to another stateserve that is starting; choose another --port") from cause
        yield


async def _serve(settings: Settings) -> bool:
    """Whether every request in flight was answered before the end."""
    app = create_app(settings)
    running: Running = app.state.running
    face = RsgiFace(running.inference, app, settings, running.new_id)
    server = _listener(face, settings)
    signals = _Signals()
    loop = asyncio.get_running_loop()
    serving = loop.create_task(server.serve())
    log.info("listening on http://%s:%s", f"[{settings.host}]" if ":" in settings.host else settings.host, settings.port)
    limiting = loop.create_task(_limit_slow_readers(settings.port, settings.answer_timeout_s))
    loading = loop.create_task(running.repository.start())
    try:
        await _first(serving, signals.first, loading)
        if loading.done():
            await loading  # raises what ended it
            _announce(running.repository)
            await _first(serving, signals.first)
        if not serving.done():
            running.draining = face.draining = True
            log.info("ending: not ready any more, and answering for %g s more", settings.drain_delay_s)
            await _first(serving, signals.second, timeout_s=settings.drain_delay_s)
    finally:
        limiting.cancel()
        loading.cancel()
        server.stop()  # granian listens no more, closes idle connections, and ends when the last request is answered
        closing = loop.create_task(_close(serving, running.repository))
        await _first(closing, signals.second, timeout_s=max(settings.drain_timeout_s, _IDLE_END_S))
    if closing.done():
        await closing  # raises what ended it, if that was no signal
    return closing.done()


async def _close(serving: asyncio.Task[None], repository: Repository) -> None:
    await serving
    await repository.close()


async def _limit_slow_readers(port: int, timeout_s: float) -> None:
    """Lets the system end connections whose client takes nothing of its answer for so long, and would hold them for ever.

    Connections inherit TCP_USER_TIMEOUT (Linux) from the socket that listens. granian does not hand that one out, so it is looked
    for among the process' own descriptors, until it is there.
    """
    if not hasattr(socket, "TCP_USER_TIMEOUT"):
        return
    while not (listening := [one for one in _descriptors() if _listens(one, port)]):  # noqa: ASYNC110 - granian tells nobody
        await asyncio.sleep(_LOOK_AGAIN_S)
    for descriptor in listening:
        with socket.socket(fileno=os.dup(descriptor)) as listener:
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(timeout_s * 1000))


def _descriptors() -> list[int]:
    return [int(name) for name in os.listdir("/proc/self/fd")]  # noqa: PTH208 - names, not paths


def _listens(descriptor: int, port: int) -> bool:
    try:
        if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
            return False
        with socket.socket(fileno=os.dup(descriptor)) as found:
            is_ours = found.family in {socket.AF_INET, socket.AF_INET6} and found.getsockname()[1] == port
            return is_ours and bool(found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    except OSError:  # gone meanwhile
        return False


def _listener(face: RsgiFace, settings: Settings) -> Server:
    return Server(
        face,
        address=settings.host,
        port=settings.port,
        interface=Interfaces.RSGI,
        http=HTTPModes.http1,
        websockets=False,
        log_level=LogLevels.error,
        log_dictconfig=logs.GRANIAN_LOGGING,
        backlog=max(settings.max_connections, 128),
        backpressure=settings.max_connections,
        http1_settings=HTTP1Settings(
            header_read_timeout=round(settings.header_timeout_s * 1000), max_buffer_size=settings.max_header_bytes
        ),
    )


def _announce(repository: Repository) -> None:
    found = repository.readiness()
    if found.ready:
        log.info("ready: %s", ", ".join(f"{served.name} version {served.version}" for served in repository.served()))
    else:
        log.error("not ready: %s", "; ".join(found.reasons.values()))
    for name, warning in found.warnings.items():
        log.warning("%s: %s", name, warning)


class _Signals:
    """SIGTERM and SIGINT: the first asks for an orderly end, the second for one at once."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.first, self.second = loop.create_future(), loop.create_future()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._arrived)

    def _arrived(self) -> None:
        for future in (self.first, self.second):
            if not future.done():
                future.set_result(None)
                return


async def _first(*waited_for: "asyncio.Future[None]", timeout_s: float | None = None) -> None:
    await asyncio.wait(waited_for, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)

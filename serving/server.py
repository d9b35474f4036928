"""The server's life: everything begins together, in our event loop, and ends so that nothing is lost."""

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Callable, Sequence
from typing import Any

import uvloop

from serving.app import Running, create_app
from serving.listeners import (
    Listener,
    claimed,
    granian_server,
    keys_of,
    limit_slow_readers,
    listeners_of,
    require_free,
    resolved,
    until_listening,
)
from serving.rsgi import RsgiFace
from serving.settings import Settings
from serving.torchserve.assembly import TorchServe
from serving.torchserve.face import TorchServeFace
from serving.torchserve.front import Front
from serving.torchserve.tls import KeyFiles

log = logging.getLogger("stateserve")

_IDLE_END_S = 0.5
"""What granian is given to end even where nothing is in flight."""


def serve(settings: Settings, started: Callable[[], None] | None = None) -> None:
    """Serves until SIGTERM or SIGINT; then for `drain_delay_s` longer, not ready any more, and until every request is answered.

    It listens from the start, and says that it is ready when every required model is. What still runs `drain_timeout_s` after the
    delay, or at a second signal, is cut off, and the process ends with code 1. `started` is called when every address is listened
    on and the models of the model store are registered.

    Raises:
        SettingsError: a host has no address, or the keys of https cannot be used.
        PortTaken: another process listens there.
        NoRepository: the model repository is not a directory.
        SnapshotInvalid: a snapshot cannot be restored.
    """
    settings = settings.model_copy(update={"host": resolved(settings.host)})
    listeners = listeners_of(settings)
    with contextlib.ExitStack() as stack:
        for listener in listeners:
            require_free(listener.address)
            stack.enter_context(claimed(listener.address))
        runner = stack.enter_context(asyncio.Runner(loop_factory=uvloop.new_event_loop))
        if not runner.run(_serve(settings, listeners, started)):
            log.error("requests were cut off at a second signal, or %g s after the first", settings.drain_timeout_s)
            logging.shutdown()
            os._exit(1)  # an engine's call cannot be interrupted, and its thread would keep the process


async def _serve(settings: Settings, listeners: Sequence[Listener], started: Callable[[], None] | None) -> bool:
    """Whether every request in flight was answered before the end."""
    with keys_of(settings, listeners) as keys:
        house = _House(settings, listeners, keys)
        await house.listen()
    signals = _Signals()
    loop = asyncio.get_running_loop()
    loading = loop.create_task(house.load())
    telling = loop.create_task(_tell_started(house.torchserve, started))
    try:
        await _first(house.serving, signals.first, loading)
        if loading.done():
            await loading  # raises what ended it
            _announce(house)
            await _first(house.serving, signals.first)
        if not house.serving.done():
            house.drain()
            log.info("ending: not ready any more, and answering for %g s more", settings.drain_delay_s)
            await _first(house.serving, signals.second, timeout_s=settings.drain_delay_s)
    finally:
        telling.cancel()
        loading.cancel()
        closing = loop.create_task(house.close())
        await _first(closing, signals.second, timeout_s=max(settings.drain_timeout_s, _IDLE_END_S))
    if closing.done():
        await closing  # raises what ended it, if that was no signal
    else:
        house.torchserve.abandon()
    return closing.done()


class _House:
    """The application, TorchServe's side of it, and what listens for both; `serving` is done when nothing listens any more."""

    def __init__(self, settings: Settings, listeners: Sequence[Listener], keys: KeyFiles | None) -> None:
        app = create_app(settings)
        self.running: Running = app.state.running
        self.torchserve = TorchServe(settings, self.running)
        native = RsgiFace(self.running.inference, app, settings, self.running.new_id)
        self._listeners = listeners
        self._answer_timeout_s = settings.answer_timeout_s
        self._faces = [_face(listener, self.torchserve, native, settings) for listener in listeners]
        pairs = zip(self._faces, listeners, strict=True)
        self._servers = [granian_server(face, listener, settings, keys) for face, listener in pairs]
        self.serving = asyncio.gather(*(server.serve() for server in self._servers))

    async def listen(self) -> None:
        """Returns when everything listens."""
        listening = asyncio.ensure_future(until_listening(self._listeners))
        await _first(self.serving, listening)
        listening.cancel()
        for listener in self._listeners:
            log.info("%s API listening on %s", listener.names, listener.address)
            limit_slow_readers(listener.address, self._answer_timeout_s)

    async def load(self) -> None:
        """Loads what is to be served. Returns when all was tried; raises NoRepository or SnapshotInvalid."""
        await asyncio.gather(self.running.repository.start(), self.torchserve.start())

    def drain(self) -> None:
        """Says that it is not ready any more, and asks every client to close its connection."""
        self.running.draining = True
        for face in self._faces:
            face.draining = True

    async def close(self) -> None:
        """Returns when everything that was begun is answered, and everything has ended."""
        for server in self._servers:
            server.stop()  # granian listens no more, closes idle connections, and ends when the last request is answered
        try:
            await self.serving
        finally:
            await self.torchserve.close()
            await self.running.repository.close()


async def _tell_started(torchserve: TorchServe, started: Callable[[], None] | None) -> None:
    await torchserve.registered()
    if started is not None:
        started()


def _face(listener: Listener, torchserve: TorchServe, native: RsgiFace, settings: Settings) -> RsgiFace | TorchServeFace:
    """Without a model store, what asks for predictions only is the application's alone."""
    if settings.model_store is None and listener.connectors == {"inference"}:
        return native
    front = Front(listener.connectors, torchserve.parts, settings)
    return TorchServeFace(front, native if "inference" in listener.connectors else None, settings)


def _announce(house: _House) -> None:
    found = house.running.readiness()
    if found.ready:
        artifacts = [f"{served.name} version {served.version}" for served in house.running.repository.served()]
        log.info("ready: %s", ", ".join([*artifacts, *house.torchserve.served()]) or "there is no model yet")
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


async def _first(*waited_for: "asyncio.Future[Any]", timeout_s: float | None = None) -> None:
    await asyncio.wait(waited_for, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)

"""The server's life: everything begins together, in our event loop, and ends so that nothing is lost."""

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Callable, Sequence
from typing import Any

import uvloop

from serving import logs
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
from serving.processes.control import Control
from serving.processes.figures import CONTROL, ProcessFigures
from serving.processes.spread import Spread, machine, spread
from serving.rsgi import RsgiFace, to_asgi
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

    It is one process, or several: see `serving.processes.spread`. Then this one controls the others, and does what is no
    prediction; all of them end with it.

    Raises:
        SettingsError: a host has no address, the keys of https cannot be used, or several processes are asked for and impossible.
        PortTaken: another process listens there.
        NoRepository: the model repository is not a directory.
        SnapshotInvalid: a snapshot cannot be restored.
        NoFrontEnd: there are several processes, and one of them cannot be started.
    """
    settings = settings.model_copy(update={"host": resolved(settings.host)})
    found = spread(settings, machine())
    listeners = listeners_of(settings)
    with contextlib.ExitStack() as stack:
        for listener in listeners:
            require_free(listener.address)
            stack.enter_context(claimed(listener.address))
        runner = stack.enter_context(asyncio.Runner(loop_factory=uvloop.new_event_loop))
        if not runner.run(_serve(settings, listeners, found, started)):
            log.error("requests were cut off at a second signal, or %g s after the first", settings.drain_timeout_s)
            logging.shutdown()
            os._exit(1)  # an engine's call cannot be interrupted, and its thread would keep the process


async def _serve(settings: Settings, listeners: Sequence[Listener], found: Spread, started: Callable[[], None] | None) -> bool:
    """Whether every request in flight was answered before the end."""
    with contextlib.ExitStack() as while_serving, contextlib.ExitStack() as while_starting:
        needing_keys = while_serving if found.frontends else while_starting  # front ends that are started later read them, too
        keys = needing_keys.enter_context(keys_of(settings, listeners))
        house, signals = _House(settings, listeners, keys, found), _Signals()
        listening = asyncio.ensure_future(house.listen())
        try:
            await _first(listening, signals.second)
            if not listening.done():
                house.abandon()
                return False
            await listening  # raises why nothing listens
        except BaseException:
            house.abandon()
            raise
        while_starting.close()
        return await _until_ended(house, signals, settings, started)


async def _until_ended(house: "_House", signals: "_Signals", settings: Settings, started: Callable[[], None] | None) -> bool:
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
        house.abandon()
    return closing.done()


class _House:
    """The application, TorchServe's side of it, and what listens for both; `serving` is done when nothing listens any more.

    Where front ends listen for predictions, they are `control`'s, and so are the models.
    """

    def __init__(self, settings: Settings, listeners: Sequence[Listener], keys: KeyFiles | None, found: Spread) -> None:
        log.info("%s", found)
        front_ends = next(n for n, listener in enumerate(listeners) if "inference" in listener.connectors)
        self._control = Control(_for_front_ends(settings, keys, found), found, front_ends) if found.frontends else None
        app = create_app(settings, self._control)
        self.running: Running = app.state.running
        self.running.metrics.add(_figures(self._control))
        if self._control is not None:
            logs.call_process(CONTROL)
        self.torchserve = TorchServe(settings, self.running)
        native = RsgiFace(self.running.inference, to_asgi(app), settings, self.running.new_id)
        self._answer_timeout_s = settings.answer_timeout_s
        self._faces = [_face(listener, self.torchserve, native, settings) for listener in listeners]
        self._handed_on = self._faces[front_ends]
        own = [n for n in range(len(listeners)) if n != front_ends or self._control is None]
        self._all_listeners, self._listeners = listeners, [listeners[n] for n in own]
        self._servers = [granian_server(self._faces[n], listeners[n], settings, keys) for n in own]
        serving = [server.serve() for server in self._servers]
        self.serving = asyncio.gather(*serving, *([] if self._control is None else [self._control.serving]))

    async def listen(self) -> None:
        """Returns when everything listens."""
        listening = asyncio.ensure_future(self._until_listening())
        await _first(self.serving, listening)
        if self.serving.done():
            listening.cancel()
            await self.serving  # raises why nothing listens
        await listening
        for listener in self._all_listeners:
            log.info("%s API listening on %s", listener.names, listener.address)
        for listener in self._listeners:
            limit_slow_readers(listener.address, self._answer_timeout_s)

    async def _until_listening(self) -> None:
        await until_listening(self._listeners)
        if self._control is not None:
            await self._control.listen(self._handed_on)

    async def load(self) -> None:
        """Loads what is to be served. Returns when all was tried; raises NoRepository or SnapshotInvalid."""
        await asyncio.gather(self.running.repository.start(), self.torchserve.start())

    def drain(self) -> None:
        """Says that it is not ready any more, and asks every client to close its connection."""
        self.running.draining = True
        for face in self._faces:
            face.draining = True
        if self._control is not None:
            self._control.drain()

    async def close(self) -> None:
        """Returns when everything that was begun is answered, and everything has ended."""
        if self._control is not None:
            await self._control.stop()  # first: what front ends hand on is answered by these
        for server in self._servers:
            server.stop()  # granian listens no more, closes idle connections, and ends when the last request is answered
        try:
            await self.serving
        finally:
            await self.torchserve.close()
            await self.running.repository.close()
            self.running.inference.close()
            if self._control is not None:
                await self._control.close()

    def abandon(self) -> None:
        """Ends the processes that it has started, at once."""
        self.torchserve.abandon()
        if self._control is not None:
            self._control.kill()


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


def _for_front_ends(settings: Settings, keys: KeyFiles | None, found: Spread) -> Settings:
    """The settings as front ends take them: how many they are, and one pair of key files for all of them."""
    files = {} if keys is None else {"certificate_file": keys.certificate, "private_key_file": keys.key, "keystore": None}
    return settings.model_copy(update={"frontends": found.frontends, **files})


def _figures(control: Control | None) -> ProcessFigures:
    return ProcessFigures() if control is None else ProcessFigures(lambda: control.processes, control.restarts)


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

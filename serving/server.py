"""The listener: granian inside our event loop, a port that is really ours, and an end that loses nothing."""

import asyncio
import logging
import os
import signal
import socket

import uvloop
from granian.constants import Interfaces
from granian.server.embed import Server

from serving.app import create_app
from serving.errors import PortTaken
from serving.repository import Repository
from serving.settings import Settings

log = logging.getLogger("stateserve")

_IDLE_END_S = 0.5
"""What granian is given to end even where nothing is in flight."""


def serve(settings: Settings) -> None:
    """Serves until SIGTERM or SIGINT; requests in flight are answered first, for at most `drain_timeout_s`.

    Where that is not enough, what still runs is cut off, and the process ends with code 1.

    Raises:
        PortTaken: another process listens there.
    """
    require_free(settings.host, settings.port)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        if not runner.run(_serve(settings)):
            log.error("requests were cut off: they still ran when drain_timeout_s was over (%g s)", settings.drain_timeout_s)
            logging.shutdown()
            os._exit(1)  # an engine's call cannot be interrupted, and its thread would keep the process


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


async def _serve(settings: Settings) -> bool:
    """Whether every request in flight was answered before the end."""
    app = create_app(settings)
    async with app.router.lifespan_context(app):
        require_free(settings.host, settings.port)  # again: loading took its time
        _announce(app.state.repository, settings)
        server = Server(
            app, address=settings.host, port=settings.port, interface=Interfaces.ASGINL, websockets=False, log_enabled=False
        )
        loop, stopped = asyncio.get_running_loop(), asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stopped.set)
        serving, waiting = loop.create_task(server.serve()), loop.create_task(stopped.wait())
        await asyncio.wait((serving, waiting), return_when=asyncio.FIRST_COMPLETED)
        server.stop()  # granian listens no more, closes idle connections, and ends when the last request is answered
        await asyncio.wait((serving,), timeout=max(settings.drain_timeout_s, _IDLE_END_S))
        waiting.cancel()
        if serving.done():
            await serving  # raises what ended it, if that was no signal
        return serving.done()


def _announce(repository: Repository, settings: Settings) -> None:
    for model in repository.models.values():
        if model.loaded is None:
            log.error("%s version %s is not ready: %s", model.name, model.version, model.reason)
        else:
            log.info("%s version %s passed its golden cases", model.name, model.version)
    if not repository.models:
        log.error("no model below %s: it holds no <name>/<version>/ (say the folder that holds the names)", repository.root)
    log.info("listening on http://%s:%s", settings.host, settings.port)

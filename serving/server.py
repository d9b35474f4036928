"""The listener: granian inside our event loop, a port that is really ours, and an end that loses nothing."""

import asyncio
import contextlib
import logging
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


def serve(settings: Settings) -> None:
    """Serves until SIGTERM or SIGINT; requests in flight are answered first, for at most `drain_timeout_s`.

    Raises:
        PortTaken: another process listens there.
    """
    require_free(settings.host, settings.port)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(settings))


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


async def _serve(settings: Settings) -> None:
    app = create_app(settings)
    async with app.router.lifespan_context(app):
        _announce(app.state.repository, settings)
        server = Server(
            app, address=settings.host, port=settings.port, interface=Interfaces.ASGINL, websockets=False, log_enabled=False
        )
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, server.stop)
        with contextlib.suppress(asyncio.CancelledError):
            await server.serve()


def _announce(repository: Repository, settings: Settings) -> None:
    for model in repository.models.values():
        if model.loaded is None:
            log.error("%s version %s is not ready: %s", model.name, model.version, model.reason)
        else:
            log.info("%s version %s passed its golden cases", model.name, model.version)
    if not repository.models:
        log.error("no model below %s: export one there", repository.root)
    log.info("listening on http://%s:%s", settings.host, settings.port)

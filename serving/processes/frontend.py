"""A front end: one of the processes that speak HTTP for a server of several.

python -m serving.processes.frontend FD FD2

Control (serving/processes/control.py) starts it with the ends of two sockets. On the first it says what is served, and hears what
was counted; on the second it answers what a front end does not answer itself. A front end ends with control, at once.
"""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from collections.abc import Coroutine, Mapping
from typing import Any, NoReturn

import uvloop
from granian.server.embed import Server

from foundation.errors import StateserveError
from foundation.memory import give_back_freed_memory
from serving import logs
from serving.body import Arrivals
from serving.inference import Inference
from serving.listeners import granian_server, keys_of, limit_slow_readers, listeners_of, until_listening
from serving.processes.attached import Order, attached
from serving.processes.channels import Channels
from serving.processes.handing_on import HandingOn
from serving.processes.link import Link, Message
from serving.processes.parent import end_with_parent
from serving.processes.routes import Routes
from serving.processes.tally import Tally
from serving.rsgi import RsgiFace
from serving.served import ServedVersion, limits_of
from serving.settings import Settings

log = logging.getLogger("stateserve")

_LET_GO_S = 0.1
"""After so long nobody holds a version any more that was retired."""


def main(arguments: list[str]) -> NoReturn:
    """Serves until control ends, or says so. The numbers are the descriptors of the two sockets."""
    end_with_parent()
    for number in (signal.SIGINT, signal.SIGTERM):  # control gets them too, and sees to the end of all
        signal.signal(number, signal.SIG_IGN)
    control, requests = (socket.socket(fileno=int(number)) for number in arguments)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(control, requests))
    _end(0)


async def _serve(control: socket.socket, requests: socket.socket) -> None:
    link = Link(control)
    start = await link.receive()
    if start is None:
        os._exit(1)
    try:
        front = FrontEnd(start.head, link, HandingOn(Link(requests)))
        await front.obey()
    except Exception as error:  # noqa: BLE001 - control is told, and starts another
        _give_up(link, error)
    link.close()
    while await link.receive() is not None:  # until what was sent is with the system
        pass


class FrontEnd:
    """What one front end consists of, and what control asks of it."""

    def __init__(self, start: Mapping[str, Any], link: Link, handing_on: HandingOn) -> None:
        """Takes what the message `start` says.

        Raises:
            SettingsError: a host has no address.
        """
        settings = Settings.model_validate(start["settings"])
        if start["cores"]:
            os.sched_setaffinity(0, start["cores"])  # threads that are made from now on keep to them, too
        logs.configure(settings.log_format, access_log=settings.access_log, process=f"front end {start['number']}")
        self._settings = _own_share(settings)
        self._listener = listeners_of(settings)[start["listener"]]
        self._limits = limits_of(settings)
        self._link = link
        self._loop = asyncio.get_running_loop()
        self._versions: dict[int, ServedVersion] = {}
        self._attaching: dict[int, asyncio.Task[None]] = {}
        self._routes = Routes()
        self._tally = Tally(self._versions, link)
        self._inference = Inference(self._routes, self._tally, Arrivals(settings.body_timeout_s), settings)
        self._face = RsgiFace(self._inference, handing_on, settings, logs.request_ids())
        self._server: Server | None = None
        self._serving: asyncio.Task[None] | None = None
        self._stopping = False
        self._works: set[asyncio.Task[None]] = set()
        self._stopped = self._loop.create_future()
        self._begin(self._hand_on(handing_on))
        self._begin(self._tally.tell_changes())
        link.send({"kind": "started"})

    async def obey(self) -> None:
        """Does what control says, in its order; returns when it was told to stop, and all that was begun is answered."""
        obeying = self._begin(self._obey())
        await self._stopped
        obeying.cancel()

    async def _obey(self) -> None:
        while (message := await self._link.receive()) is not None:
            self._take(message)
        os._exit(1)

    def _take(self, message: Message) -> None:
        """What takes time goes on in the background; all else has taken effect when this returns."""
        head = message.head
        match head["kind"]:
            case "attach":
                self._attaching[head["id"]] = self._begin(self._attach(head))
            case "connect":
                self._connect(head, message.fds)
            case "routes":
                known = {name: self._versions[number] for name, number in head["routes"].items() if number in self._versions}
                self._routes.lead(head["model"], known)
            case "retire":
                self._begin(self._retire(head))
            case "barrier":
                self._reply("barrier", head)
            case "totals":
                self._tally.tell(head["ask"])
            case "listen":
                self._begin(self._listen())
            case "draining":
                self._face.draining = True
            case "stop":
                self._begin(self._stop())
            case kind:
                raise ValueError(f"control says {kind!r}, which no front end knows")

    async def _attach(self, head: Mapping[str, Any]) -> None:
        try:
            served = await attached(Order.of(head), self._limits, self._inference.arrivals.__len__)
        except StateserveError as error:
            self._reply("failed", head, error=str(error))
        except Exception as error:  # whatever it is: this version is not served, and all else is
            log.exception("%s version %s cannot be attached", head["name"], head["version"])
            self._reply("failed", head, error=f"{type(error).__name__}: {error}")
        else:
            self._versions[head["id"]] = served
            self._reply("attached", head)
        finally:
            del self._attaching[head["id"]]

    def _connect(self, head: Mapping[str, Any], fds: list[int]) -> None:
        """Lets a version here and one of its engine processes know each other."""
        (fd,) = fds
        served = self._versions.get(head["id"])
        channels = None if served is None else served.batcher
        if not isinstance(channels, Channels):
            os.close(fd)
            self._reply("failed", head, error="no version of that id is here, or its engine is here too")
            return
        channels.connect(head["engine"], socket.socket(fileno=fd))
        self._reply("connected", head)

    async def _retire(self, head: Mapping[str, Any]) -> None:
        """Lets a version go that no route leads to, when all that entered it is answered; control hears its last counts."""
        number = head["id"]
        if (attaching := self._attaching.get(number)) is not None:
            await asyncio.wait([attaching])
        served = self._versions.get(number)
        if served is not None:
            await served.retire()
            self._tally.tell()
            self._versions.pop(number, None)
            del served
            self._loop.call_later(_LET_GO_S, self._loop.run_in_executor, None, give_back_freed_memory)
        self._reply("retired", head)

    async def _listen(self) -> None:
        with keys_of(self._settings, [self._listener]) as keys:
            self._server = granian_server(self._face, self._listener, self._settings, keys)
            self._serving = self._begin(self._serve(self._server))
            await until_listening([self._listener])
        limit_slow_readers(self._listener.address, self._settings.answer_timeout_s)
        self._link.send({"kind": "listening"})

    async def _serve(self, server: Server) -> None:
        await server.serve()
        if not self._stopping:
            raise RuntimeError("granian ended by itself")

    async def _stop(self) -> None:
        self._stopping = True
        if self._server is not None and self._serving is not None:
            self._server.stop()  # granian listens no more, closes idle connections, and ends when the last request is answered
            await self._serving
        self._inference.close()
        self._tally.tell()
        self._link.send({"kind": "stopped"})
        self._stopped.set_result(None)

    async def _hand_on(self, handing_on: HandingOn) -> None:
        await handing_on.run()
        os._exit(1)

    def _reply(self, kind: str, head: Mapping[str, Any], **more: Any) -> None:
        self._link.send({"kind": kind, "ask": head["ask"], **more})

    def _begin(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._loop.create_task(work)
        self._works.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._works.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _give_up(self._link, error)


def _own_share(settings: Settings) -> Settings:
    """The settings of one of several front ends: connections are shared evenly between them."""
    return settings.model_copy(update={"max_connections": -(-settings.max_connections // (settings.frontends or 1))})


def _give_up(link: Link, error: BaseException) -> NoReturn:
    log.critical("the front end cannot go on", exc_info=error)
    with contextlib.suppress(Exception):
        link.send({"kind": "trouble", "error": f"{type(error).__name__}: {error}"})
    _end(1)


def _end(code: int) -> NoReturn:
    """Ends the process: not as Python does, which would wait for threads that load or compute."""
    logging.shutdown()
    os._exit(code)


if __name__ == "__main__":
    main(sys.argv[1:])

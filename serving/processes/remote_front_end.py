"""A front end, as control sees it: what it has, and how it is told."""

import asyncio
import socket
from collections.abc import Mapping

from serving.processes.children import Child, ProcessEnded
from serving.processes.remote_version import RemoteVersion

_ATTACH_S = 600.0
"""How long a front end may take to attach a version, which may be to load it: an engine process has done so just now."""


class RemoteFrontEnd:
    """A front end that runs. Whatever is asked of it raises ProcessEnded where it has ended.

    `attached` are the ids of the versions that it has, `listens` says that clients reach it, and `works` are ended with it.
    """

    def __init__(self, number: int, child: Child) -> None:
        self.number = number
        self.child = child
        self.attached: set[int] = set()
        self.listens = False
        self.works: list[asyncio.Task[None]] = []

    async def attach(self, version: RemoteVersion, arena_bytes: int) -> None:
        """Lets it have a version, and connects it with the version's engine processes.

        Raises:
            ProcessFailed: the version failed its checks there.
        """
        await self.child.ask(version.order(arena_bytes), timeout_s=_ATTACH_S)
        self.attached.add(version.id)
        await asyncio.gather(*(self.connect(version, seat.child) for seat in version.seats if seat.child is not None))

    async def connect(self, version: RemoteVersion, engine: Child) -> None:
        """Lets it and an engine process know each other. An engine process that has ended is replaced later."""
        ours, theirs = socket.socketpair()
        with ours, theirs:
            to_front_end = {"kind": "connect", "id": version.id, "engine": int(engine.name.rpartition(" ")[2])}
            to_engine = {"kind": "connect", "frontend": self.number}
            there, here = await asyncio.gather(
                engine.ask(to_engine, fds=[theirs.fileno()]),
                self.child.ask(to_front_end, fds=[ours.fileno()]),
                return_exceptions=True,
            )
        if isinstance(here, BaseException):
            raise here
        if isinstance(there, BaseException) and not isinstance(there, ProcessEnded):
            raise there

    async def retire(self, version: RemoteVersion) -> None:
        """Returns when all that entered the version there is answered, however long that takes, and it has left."""
        await self.child.ask({"kind": "retire", "id": version.id}, timeout_s=None)
        self.attached.discard(version.id)

    async def barrier(self) -> None:
        """Returns when it has taken in what it was told."""
        await self.child.ask({"kind": "barrier"})

    def route(self, model: str, table: Mapping[str, int]) -> None:
        """Tells it a model's routes, apart from those to versions that it could not attach."""
        known = {name: number for name, number in table.items() if number in self.attached}
        self.child.tell({"kind": "routes", "model": model, "routes": known})

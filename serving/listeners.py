"""Where the server listens: addresses that are really ours, and a granian server for each."""

import asyncio
import contextlib
import hashlib
import os
import socket
import stat
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from granian.constants import HTTPModes, Interfaces, SSLProtocols
from granian.http import HTTP1Settings
from granian.log import LogLevels
from granian.server.embed import Server

from serving import logs
from serving.errors import PortTaken, SettingsError
from serving.rsgi import RsgiFace
from serving.settings import Settings
from serving.torchserve.addresses import Address, Connector
from serving.torchserve.face import TorchServeFace
from serving.torchserve.keys import CONNECTORS
from serving.torchserve.keys import connectors as connectors_of
from serving.torchserve.tls import KeyFiles, key_files

_LOOK_AGAIN_S = 0.01
_MAX_SOCKET_PATH_BYTES = 103
"""The shortest that a system allows (macOS; Linux: 107)."""


@dataclass(frozen=True)
class Listener:
    """One address where the server listens, and what it answers for there."""

    address: Address
    connectors: frozenset[Connector]

    @property
    def names(self) -> str:
        """The connectors, as a line of the log begins with them."""
        return ", ".join(connector for connector in CONNECTORS if connector in self.connectors).capitalize()


def listeners_of(settings: Settings) -> tuple[Listener, ...]:
    """Where the server listens, hosts as addresses: what is asked for at one address is one listener.

    Raises:
        SettingsError: a host has no address; one address is http and https.
    """
    found: dict[tuple[str, int, str], Listener] = {}
    for address, connectors in connectors_of(settings):
        where = address if address.scheme == "unix" else replace(address, host=resolved(address.host))
        place = (where.host, where.port, where.path)
        before = found.get(place, Listener(where, frozenset()))
        if before.address != where:
            raise SettingsError(f"{before.address} and {where} are one address: it is http or https")
        found[place] = Listener(where, before.connectors | connectors)
    return tuple(found.values())


def resolved(host: str) -> str:
    """The address of a host, an IPv4 one if it has any: granian takes addresses only. Raises SettingsError if it has none."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as cause:
        raise SettingsError(f"host is {host!r}, which has no address here: {cause.strerror}") from cause
    return str(min(found, key=lambda entry: entry[0] != socket.AF_INET)[4][0])


def require_free(address: Address) -> None:
    """Raises PortTaken if the address cannot be bound: granian shares a taken port (SO_REUSEPORT) without a word.

    A socket's file that a dead server left is taken away.
    """
    if address.scheme == "unix":
        _require_free_path(Path(address.path))
        return
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address.host, address.port))
        except OSError as cause:
            raise PortTaken(
                f"{address.host}:{address.port} cannot be listened on: {cause.strerror}; end what listens there, "
                "or choose another address"
            ) from cause


def _require_free_path(path: Path) -> None:
    if len(os.fsencode(path)) > _MAX_SOCKET_PATH_BYTES:
        raise PortTaken(f"{path} cannot be listened on: a socket's path has at most {_MAX_SOCKET_PATH_BYTES} bytes")
    if not path.parent.is_dir():
        raise PortTaken(f"{path} cannot be listened on: there is no folder {path.parent}")
    if not path.exists():
        return
    if not path.is_socket():
        raise PortTaken(f"{path} cannot be listened on: it is there, and no socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except OSError as cause:
            raise PortTaken(f"{path} cannot be listened on: {cause.strerror}") from cause
    raise PortTaken(f"{path} cannot be listened on: another server listens there")


@contextlib.contextmanager
def claimed(address: Address) -> Iterator[None]:
    """Holds the address against another server of ours that starts at the same moment, when neither listens yet.

    The name that it takes is of Linux' abstract sockets: it is seen where the port is, and gone with the process.

    Raises:
        PortTaken: another has it.
    """
    if sys.platform != "linux":
        yield
        return
    place = hashlib.sha256(address.path.encode()).hexdigest() if address.path else f"{address.host}-{address.port}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as claim:
        try:
            claim.bind(f"\0stateserve-{place}")
        except OSError as cause:
            told = address.path or f"{address.host}:{address.port}"
            raise PortTaken(f"{told} belongs to another stateserve that is starting; choose another address") from cause
        yield


def keys_of(settings: Settings, listeners: Sequence[Listener]) -> contextlib.AbstractContextManager[KeyFiles | None]:
    """The key files of https, while they are needed: granian reads them when it begins to listen."""
    hosts = frozenset(listener.address.host for listener in listeners if listener.address.scheme == "https")
    return key_files(settings, hosts) if hosts else contextlib.nullcontext()


async def until_listening(listeners: Sequence[Listener]) -> None:
    """Ends when all of them listen. granian tells nobody: their sockets are looked for among the process' own descriptors."""
    while not all(_sockets_of(listener.address) for listener in listeners):  # noqa: ASYNC110 - granian tells nobody
        await asyncio.sleep(_LOOK_AGAIN_S)


def limit_slow_readers(address: Address, timeout_s: float) -> None:
    """Lets the system end connections whose client takes nothing of its answer for so long, and would hold them for ever.

    Connections inherit TCP_USER_TIMEOUT (Linux) from the socket that listens.
    """
    if not hasattr(socket, "TCP_USER_TIMEOUT") or address.scheme == "unix":
        return
    for descriptor in _sockets_of(address):
        with socket.socket(fileno=os.dup(descriptor)) as listener:
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(timeout_s * 1000))


def _sockets_of(address: Address) -> list[int]:
    """The descriptors of this process that listen there."""
    return [one for one in map(int, os.listdir("/dev/fd")) if _listens(one, address)]  # noqa: PTH208 - names, not paths


def _listens(descriptor: int, address: Address) -> bool:
    try:
        if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
            return False
        with socket.socket(fileno=os.dup(descriptor)) as found:
            bound = found.getsockname()
            is_there = bound == address.path if address.scheme == "unix" else bound[1:2] == (address.port,)
            return is_there and bool(found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    except OSError:  # gone meanwhile
        return False


def granian_server(face: RsgiFace | TorchServeFace, listener: Listener, settings: Settings, keys: KeyFiles | None) -> Server:
    """What listens there, once it serves."""
    address = listener.address
    used = keys if address.scheme == "https" else None
    return Server(
        face,
        address=address.host,
        port=address.port,
        uds=Path(address.path) if address.scheme == "unix" else None,
        ssl_cert=None if used is None else used.certificate,
        ssl_key=None if used is None else used.key,
        ssl_protocol_min=SSLProtocols.tls12,
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

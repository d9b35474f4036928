"""Which processes of this machine serve an address."""

import ipaddress
import socket

import psutil

from bench.observed.errors import NotSeen
from bench.observed.kinds import kind

_FORWARDERS = frozenset({"docker-proxy", "kubectl", "pasta", "rootlessport", "slirp4netns", "ssh", "sshd"})
"""Programs that listen for a server that runs elsewhere: their time and memory are not the server's."""


def is_here(host: str) -> bool:
    """Whether a host's address is this machine's own."""
    own = {_plain(entry.address) for entries in psutil.net_if_addrs().values() for entry in entries}
    return any(address in own or _is_loopback(address) for address in _addresses(host))


def serving(host: str, port: int) -> list[psutil.Process]:
    """The processes that listen there, without those that one of them started.

    Several may share a port (SO_REUSEPORT, or a socket that was inherited): all of them are the server. Front ends of our own
    server were started by its control process, which need not listen there itself: it is named in their place.

    Raises:
        NotSeen: the address is not this machine's, or the system does not tell who listens, or it is a forwarder.
    """
    if not is_here(host):
        raise NotSeen(f"{host} is not this machine")
    pids = _listeners(host, port)
    try:
        roots = {_root(psutil.Process(pid), port) for pid in pids}
        forwarders = sorted({process.name() for process in roots} & _FORWARDERS)
    except psutil.Error as cause:
        raise NotSeen(f"the process that listens on {host}:{port} cannot be looked at: {cause}") from cause
    if forwarders:
        raise NotSeen(f"{forwarders[0]} listens on {host}:{port} for a server that runs elsewhere")
    return [root for root in roots if roots.isdisjoint(root.parents())]


def _listeners(host: str, port: int) -> set[int]:
    try:
        found = [one for one in psutil.net_connections("tcp") if one.status == psutil.CONN_LISTEN]
    except psutil.AccessDenied as cause:
        raise NotSeen("this system tells only its administrator who listens on a port") from cause
    by_address: dict[str, set[int | None]] = {}
    for one in found:
        address, its_port = tuple(one.laddr)
        if its_port == port:
            by_address.setdefault(_plain(str(address)), set()).add(one.pid)
    exact = [by_address[address] for address in _addresses(host) & set(by_address)]  # the kernel prefers it to "any address"
    pids = set().union(*(exact or [pids for address, pids in by_address.items() if _is_any(address)]))
    if not pids:
        raise NotSeen(f"no process that is seen from here listens on {host}:{port}; it may run in a container")
    if None in pids:
        raise NotSeen(f"the process that listens on {host}:{port} is another user's: measure as that user, or as root")
    return {pid for pid in pids if pid is not None}


def _root(process: psutil.Process, port: int) -> psutil.Process:
    """The first of its ancestors that holds the socket, too: of all that share one, the system names any."""
    control = process.parent() if kind(process.pid) is not None else None
    if control is not None:
        return control
    holders = [one for one in process.parents() if _listens(one, port)]
    return holders[-1] if holders else process


def _listens(process: psutil.Process, port: int) -> bool:
    try:
        found = [tuple(one.laddr) for one in process.net_connections("tcp") if one.status == psutil.CONN_LISTEN]
    except psutil.Error:  # it is another user's
        return False
    return any(its_port == port for _, its_port in found)


def _addresses(host: str) -> set[str]:
    try:
        return {_plain(str(found[4][0])) for found in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
    except OSError:  # it has no address, so it is not ours
        return set()


def _plain(address: str) -> str:
    """Without the interface of a link-local address, and an IPv4 address as such where it is written as IPv6."""
    return address.partition("%")[0].removeprefix("::ffff:")


def _is_loopback(address: str) -> bool:
    return ipaddress.ip_address(address).is_loopback or _is_any(address)


def _is_any(address: str) -> bool:
    return ipaddress.ip_address(address).is_unspecified

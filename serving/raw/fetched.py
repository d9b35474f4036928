"""Pictures that a request names by URL: fetched where the operator's patterns allow it, and nowhere else.

A server that fetches what strangers name can be led to addresses that only it can reach. So nothing is allowed unless a pattern
matches the whole URL; addresses of private networks and of this machine are refused, whatever name leads there, unless a setting
allows them; no redirect is followed, no proxy asked, and time and bytes are bounded.
"""

import asyncio
import contextlib
import functools
import http
import ipaddress
import logging
import re
import socket
import ssl
import threading
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection, HTTPException
from urllib.parse import SplitResult, urlsplit

from artifact.raw_limits import Budget
from serving.errors import BadRequest, BodyTooLarge, DeadlinePassed, NotAllowed
from serving.protocols.tensors import shortened
from serving.settings import Settings

log = logging.getLogger("stateserve")

FETCH_S = 10.0
"""How long all pictures of one request may take to arrive."""
_SOCKET_S = FETCH_S + 1
"""How long one thing may take on a connection, should nobody stop it before."""
THREADS = 32
"""Pictures that are fetched at the same time; they mostly wait for others."""
AT_ONCE = 4
"""Pictures of one request among them: one that names slow sources does not keep the others' waiting."""
MOST_URL_LETTERS = 2048
"""A pattern's time may grow with the square of them."""
_CHUNK_BYTES = 1 << 16
_DEFAULT_PORTS = {"http": 80, "https": 443}


def fetcher(settings: Settings) -> Callable[[Sequence[str]], Awaitable[Sequence[bytes]]]:
    """Gives a function that gets the bytes of URLs, in their order, by threads that are started when they are first needed.

    It raises NotAllowed where no pattern matches, or the address is private; BodyTooLarge where they have more than
    `max_body_bytes` together; BadRequest where one gives nothing; DeadlinePassed where all have not arrived in `FETCH_S`.
    """
    patterns = [re.compile(pattern) for pattern in settings.input_urls]
    pool = ThreadPoolExecutor(THREADS, "fetch")

    async def fetch(urls: Sequence[str]) -> Sequence[bytes]:
        places = [_allowed(url, patterns) for url in urls]
        budget = Budget(settings.max_body_bytes, _too_large)
        loop, slots, under_way = asyncio.get_running_loop(), asyncio.Semaphore(AT_ONCE), []

        async def one(place: SplitResult) -> bytes:
            async with slots:
                fetching = _Fetching(place, budget, to_private=settings.input_urls_private)
                under_way.append(fetching)
                return await loop.run_in_executor(pool, fetching.body)

        tasks = [asyncio.ensure_future(one(place)) for place in places]
        try:
            async with asyncio.timeout(FETCH_S):
                return await asyncio.gather(*tasks)
        except TimeoutError as cause:
            raise DeadlinePassed(f"the pictures did not arrive within {FETCH_S:g} s") from cause
        finally:  # also where one failed, or the client left
            for task in tasks:
                task.cancel()
            for fetching in under_way:
                fetching.stop()

    return fetch


def _allowed(url: str, patterns: Sequence[re.Pattern[str]]) -> SplitResult:
    """The parts of a URL that a pattern matches. Raises NotAllowed."""
    if len(url) > MOST_URL_LETTERS:
        raise BadRequest(f'the picture at "{shortened(url)}" is not fetched: a URL has {MOST_URL_LETTERS} letters at most')
    with contextlib.suppress(ValueError):  # no port, or no address
        parts = urlsplit(url)
        is_plain = parts.scheme in _DEFAULT_PORTS and bool(parts.hostname) and "@" not in parts.netloc
        is_plain = is_plain and url.isascii() and url.isprintable() and not {" ", "\\"} & set(url) and parts.port != 0
        if is_plain and any(pattern.fullmatch(url) for pattern in patterns):
            return parts
    raise NotAllowed(f'the picture at "{shortened(url)}" is not fetched: no pattern of the setting input_urls matches it')


def _too_large(most: int) -> BodyTooLarge:
    return BodyTooLarge(f"the pictures have more than {most} bytes together (setting max_body_bytes)")


class _Fetching:
    """One picture under way, in a thread; `stop` ends it from another."""

    def __init__(self, place: SplitResult, budget: Budget, *, to_private: bool) -> None:
        self._place = place
        self._budget = budget
        self._to_private = to_private
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._stopped = False

    def body(self) -> bytes:
        """The bytes that the URL gives.

        Raises:
            BadRequest, BodyTooLarge, NotAllowed: it gives none, too many, or leads where it may not.
        """
        url, host = self._place.geturl(), str(self._place.hostname)
        port = self._place.port or _DEFAULT_PORTS[self._place.scheme]
        try:
            with contextlib.closing(HTTPConnection(host, port)) as connection:
                self._connect(connection)
                return self._received(connection)
        except (OSError, HTTPException, ValueError) as cause:  # ssl's errors are OSErrors
            if not self._stopped:
                log.warning("a picture cannot be fetched: %s: %s", shortened(url), cause)
            raise BadRequest(f'the picture at "{shortened(url)}" cannot be fetched: {cause or type(cause).__name__}') from cause
        finally:
            with self._lock:
                self._socket = None

    def stop(self) -> None:
        """Lets the thread go, wherever it waits for the other side."""
        with self._lock:
            self._stopped = True
            if self._socket is not None:
                with contextlib.suppress(OSError):
                    socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def _connect(self, connection: HTTPConnection) -> None:
        """Connects to an address that is allowed: the very one that was looked at, whatever a name server says next time."""
        connection.sock = self._connected(connection.host, connection.port)
        if self._place.scheme == "https":
            name = connection.host
            connection.sock = within = _tls().wrap_socket(connection.sock, server_hostname=name, do_handshake_on_connect=False)
            self._watch(within)  # the one that it wraps has no descriptor any more
            within.do_handshake()

    def _connected(self, host: str, port: int) -> socket.socket:
        """A connection to the first address that takes one. Raises NotAllowed where any is private, and may not be."""
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        if not self._to_private and any(is_private(str(address[0])) for *_, address in found):
            raise NotAllowed(
                f'a picture at "{shortened(host)}" is not fetched: its address is private (setting input_urls_private)'
            )
        problem = OSError("its name has no address")
        for family, kind, protocol, _, address in found:
            connected = socket.socket(family, kind, protocol)
            try:
                connected.settimeout(_SOCKET_S)
                self._watch(connected)
                connected.connect(address)
            except OSError as cause:
                connected.close()
                problem = cause
            else:
                return connected
        raise problem

    def _watch(self, connected: socket.socket) -> None:
        with self._lock:
            self._socket = connected
            if self._stopped:
                raise OSError("it was given up")

    def _received(self, connection: HTTPConnection) -> bytes:
        path = (self._place.path or "/") + (f"?{self._place.query}" if self._place.query else "")
        headers = {"Host": self._place.netloc, "User-Agent": "stateserve", "Accept": "image/*", "Connection": "close"}
        connection.request("GET", path, headers=headers)
        with connection.getresponse() as answer:
            if answer.status != http.HTTPStatus.OK:
                moved = ", and redirects are not followed" if 300 <= answer.status < 400 else ""
                raise ValueError(f"status {answer.status}{moved}")
            chunks: list[bytes] = []
            while chunk := answer.read1(_CHUNK_BYTES):
                self._budget.take(len(chunk))
                chunks.append(chunk)
            if answer.length:  # of a stated length: http.client's read1 says nothing of an early end
                raise ValueError(f"{answer.length} of its bytes did not arrive")
        return b"".join(chunks)


@functools.cache
def _tls() -> ssl.SSLContext:
    """Certificates are checked, by the machine's own authorities."""
    return ssl.create_default_context()


def is_private(text: str) -> bool:
    """Whether an address is one that not everybody on the internet reaches: also within IPv6's ways to write an IPv4 address."""
    address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        teredo = address.teredo[1] if address.teredo else None
        within = address.ipv4_mapped or address.sixtofour or teredo
        if within is None and any(address in network for network in _HOLD_IPV4):
            within = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if within is not None:
            return is_private(str(within))
        if address.is_site_local or address in _LOCAL_NAT64:
            return True
    return not address.is_global or address.is_multicast or address == _AZURES_HOST


_HOLD_IPV4 = [ipaddress.ip_network(one) for one in ("64:ff9b::/96", "::/96", "::ffff:0:0:0/96")]
"""Networks whose addresses end with an IPv4 address: NAT64 (RFC 6052), compatible (RFC 4291) and translated ones (RFC 2765)."""
_LOCAL_NAT64 = ipaddress.ip_network("64:ff9b:1::/48")
"""RFC 8215: it leads where an operator says."""
_AZURES_HOST = ipaddress.ip_address("168.63.129.16")
"""Public by its number, and reached from Azure's machines alone."""

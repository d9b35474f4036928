"""Pictures that a request names by URL: fetched where the operator's patterns allow it, and nowhere else.

A server that fetches what strangers name can be led to addresses that only it can reach. So nothing is allowed unless a pattern
matches the whole URL, no redirect is followed, and time and bytes are bounded.
"""

import asyncio
import logging
import re
import time
import urllib.request
from collections.abc import Awaitable, Callable
from http.client import HTTPException
from typing import IO
from urllib.parse import urlsplit

from serving.errors import BadRequest, BodyTooLarge, NotAllowed
from serving.protocols.tensors import shortened
from serving.settings import Settings

log = logging.getLogger("stateserve")

FETCH_S = 10.0
"""How long a picture may take to arrive."""
_CHUNK_BYTES = 1 << 16


def fetcher(settings: Settings) -> Callable[[str], Awaitable[bytes]]:
    """Gives a function that gets the bytes of a URL, in a thread.

    It raises NotAllowed where no pattern matches, BodyTooLarge beyond `max_body_bytes`, BadRequest where the URL gives nothing.
    """
    patterns = [re.compile(pattern) for pattern in settings.input_urls]

    async def fetch(url: str) -> bytes:
        parts = urlsplit(url)
        is_plain = parts.scheme in {"http", "https"} and "@" not in parts.netloc and "\\" not in url and url.isprintable()
        if not is_plain or " " in url or not any(pattern.fullmatch(url) for pattern in patterns):
            raise NotAllowed(f'the picture at "{shortened(url)}" is not fetched: no pattern of the setting input_urls matches it')
        return await asyncio.to_thread(_fetched, url, settings.max_body_bytes)

    return fetch


def _fetched(url: str, limit: int) -> bytes:
    ends = time.monotonic() + FETCH_S
    try:
        with _opener().open(url, timeout=FETCH_S) as source:
            return _whole(source, limit, ends)
    except (OSError, HTTPException, ValueError) as cause:
        log.warning("a picture cannot be fetched: %s: %s", shortened(url), cause)
        raise BadRequest(f'the picture at "{shortened(url)}" cannot be fetched: {cause}') from cause


def _whole(source: IO[bytes], limit: int, ends: float) -> bytes:
    chunks, size = [], 0
    while chunk := source.read1(_CHUNK_BYTES):  # type: ignore[attr-defined] # what has arrived: the deadline is looked at
        size += len(chunk)
        if size > limit:
            raise BodyTooLarge(f"the picture has more than {limit} bytes (setting max_body_bytes)")
        if time.monotonic() > ends:
            raise TimeoutError(f"it took more than {FETCH_S:g} s")
        chunks.append(chunk)
    return b"".join(chunks)


def _opener() -> urllib.request.OpenerDirector:
    """One for http and https alone, without redirects and proxies; another status than 2xx is an error."""
    opener = urllib.request.OpenerDirector()
    handlers = (
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.HTTPDefaultErrorHandler(),
    )
    for handler in handlers:
        opener.add_handler(handler)
    return opener

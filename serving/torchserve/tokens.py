"""TorchServe's tokens: a key for each connector in key_file.json, and one that asks for new ones."""

import datetime as dt
import hmac
import json
import os
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from foundation.storage import TEMPORARY_PREFIX
from serving.errors import SettingsError
from serving.torchserve.errors import InternalServerException, InvalidKeyException

KEY_FILE = Path("key_file.json")
"""Where the keys are, in the working directory."""
_KEY_BYTES = 32
_KINDS = ("management", "inference")

Kind = Literal["management", "inference"]
"""What a key opens."""


@dataclass(frozen=True, slots=True)
class _Key:
    """A key, and when it ends, in seconds of `time.time`."""

    text: str
    ends_s: float

    def opens(self, offered: str | None, now_s: float) -> bool:
        return offered is not None and _equal(self.text, offered) and now_s < self.ends_s


class Tokens:
    """The keys of one server. Its file is written when it is made, readable by the server's own user alone.

    `clock` says the time in seconds since 1970.

    Raises:
        SettingsError: the file cannot be written.
    """

    def __init__(self, minutes: float, path: Path = KEY_FILE, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._lasts_s = minutes * 60
        self._clock = clock
        self._api = secrets.token_urlsafe(_KEY_BYTES)
        self._keys: Mapping[str, _Key] = {"management": self._new(), "inference": self._new()}
        try:
            self._write(self._keys)
        except OSError as cause:
            raise SettingsError(
                f"TorchServe's tokens cannot be written to {path.absolute()}: {cause.strerror}. Start the server in a directory "
                "that it may write to, or set disable_token_authorization=true."
            ) from cause

    def require(self, kind: Kind, authorization: str | None) -> None:
        """Lets a request to a connector pass, or not; `authorization` is the header of that name.

        Raises:
            InvalidKeyException: the header is not `Bearer KEY` with the connector's key, or the key is too old.
        """
        if not self._keys[kind].opens(_bearer(authorization), self._clock()):
            raise InvalidKeyException("Token Authorization failed. Token either incorrect, expired, or not provided correctly")

    def renew(self, kind: str | None, authorization: str | None) -> None:
        """Makes a new key for a connector, and writes the file; the one before it opens nothing any more.

        Raises:
            InternalServerException: the file cannot be written; the key before holds on.
            InvalidKeyException: there is no such connector, or the header does not hold the key that asks for keys.
        """
        offered = _bearer(authorization)
        if offered is None or not _equal(self._api, offered) or kind not in _KINDS:
            raise InvalidKeyException("Token Authentication failed. Token either incorrect, expired, or not provided correctly")
        renewed = {**self._keys, kind: self._new()}
        try:
            self._write(renewed)
        except OSError as cause:
            raise InternalServerException(
                f"The key file cannot be written: {cause.strerror}. The key before holds on."
            ) from cause
        self._keys = renewed

    def remove(self) -> None:
        """Removes the file, unless another server's keys are in it by now."""
        try:
            written = json.loads(self._path.read_bytes())
        except (OSError, ValueError):
            return
        if written == self._document(self._keys):
            self._path.unlink(missing_ok=True)

    def _new(self) -> _Key:
        return _Key(secrets.token_urlsafe(_KEY_BYTES), self._clock() + self._lasts_s)

    def _document(self, keys: Mapping[str, _Key]) -> Mapping[str, Any]:
        timed = {kind: {"key": key.text, "expiration time": _rfc3339(key.ends_s)} for kind, key in keys.items()}
        return {**timed, "API": {"key": self._api}}

    def _write(self, keys: Mapping[str, _Key]) -> None:
        temporary = self._path.with_name(f"{TEMPORARY_PREFIX}{self._path.name}-{secrets.token_hex(8)}")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "w") as file:
                file.write(f"{json.dumps(self._document(keys), indent=2)}\n")
            temporary.replace(self._path)
        finally:
            temporary.unlink(missing_ok=True)


def _bearer(authorization: str | None) -> str | None:
    """The key of a header `Bearer KEY`; None where it has another form."""
    match (authorization or "").split():
        case ["Bearer", key]:
            return key
    return None


def _equal(key: str, offered: str) -> bool:
    """Whether they are the same, in a time that does not tell how alike they are."""
    return hmac.compare_digest(key.encode(), offered.encode("utf-8", "surrogateescape"))


def _rfc3339(time_s: float) -> str:
    return dt.datetime.fromtimestamp(time_s, dt.UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")

"""Where a connector listens: TorchServe's `http://host:port`, `https://host:port` and `unix:/path`."""

import ipaddress
import re
from dataclasses import dataclass
from typing import Literal

Connector = Literal["inference", "management", "metrics"]
"""What is asked for where: predictions, models, counts."""

PORTS: dict[str, dict[str, int]] = {
    "http": {"inference": 80, "management": 8081, "metrics": 8082},
    "https": {"inference": 443, "management": 8444, "metrics": 8445},
}
"""The port of an address that says none."""
FORMS = "http://HOST[:PORT], https://HOST[:PORT] or unix:/PATH"

_TCP = re.compile(r"(?i)(https?)://(\[[0-9a-f:.]+\]|[^:/\s\[\]]+)(?::([0-9]{1,9}))?/?")


@dataclass(frozen=True, slots=True)
class Address:
    """Where one connector listens: `host` and `port`, or the `path` of a socket."""

    scheme: Literal["http", "https", "unix"]
    host: str = ""
    port: int = 0
    path: str = ""

    @classmethod
    def parse(cls, text: "str | Address", connector: Connector) -> "Address":
        """The address that a text says; `connector` gives the port where the text gives none.

        Raises:
            ValueError: the text is no address of these forms, or its port is none.
        """
        if isinstance(text, Address):
            return text
        if text.startswith("unix:/"):
            return cls("unix", path=text.removeprefix("unix:"))
        if (found := _TCP.fullmatch(text)) is None:
            raise ValueError(f"it should be {FORMS}")
        scheme = "https" if found[1].lower() == "https" else "http"
        port = int(found[3]) if found[3] else PORTS[scheme][connector]
        if not 1 <= port <= 65535:
            raise ValueError(f"port {port} should be from 1 to 65535")
        return cls(scheme, found[2].strip("[]"), port)

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine reaches it; of names, localhost alone is known to be so."""
        if self.scheme == "unix" or self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        if self.scheme == "unix":
            return f"unix:{self.path}"
        return f"{self.scheme}://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

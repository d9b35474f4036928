"""A fuzzed input is an HTTP request as its bytes: what is found can be kept as a file, and sent as it is."""

from dataclasses import dataclass, field, replace
from urllib.parse import unquote

from serving.messages import Request

END = b"\r\n\r\n"


@dataclass(frozen=True)
class Wire:
    """A request before anything of it is judged. `headers` are in order, their names as they were sent."""

    method: str = "POST"
    target: str = "/"
    headers: tuple[tuple[str, str], ...] = field(default=())
    body: bytes = b""

    @classmethod
    def parse(cls, data: bytes) -> "Wire":
        """Of any bytes: what cannot be read as a head is left out."""
        head, _, body = data.partition(END)
        first, *lines = head.decode("latin-1").split("\r\n")
        method, _, rest = first.partition(" ")
        target = rest.rpartition(" HTTP/")[0] or rest
        pairs = [line.partition(":") for line in lines]
        headers = tuple((name, value.strip(" \t")) for name, colon, value in pairs if colon and _can_be_sent(name, value))
        return cls(method, target, headers, body)

    def encode(self) -> bytes:
        """The bytes on the wire; the body's length is stated as it is."""
        lines = [f"{self.method} {self.target} HTTP/1.1", "Host: fuzz"]
        lines += [f"{name}: {value}" for name, value in self.headers if name.lower() not in {"host", "content-length"}]
        if self.body or self.method in {"POST", "PUT"}:
            lines.append(f"Content-Length: {len(self.body)}")
        return "\r\n".join(lines).encode("latin-1", "replace") + END + self.body

    def header(self, name: str) -> str | None:
        """The first value of a header."""
        return next((value for key, value in self.headers if key.lower() == name), None)

    def with_header(self, name: str, value: str | None) -> "Wire":
        """With a header of this value in the place of any other; without it, where that is None."""
        others = tuple((key, old) for key, old in self.headers if key.lower() != name)
        return replace(self, headers=others if value is None else (*others, (name, value)))

    @property
    def path(self) -> str:
        """The path, percent-decoded."""
        return unquote(self.target.partition("?")[0])

    def request(self) -> Request:
        """As the handlers see it."""
        headers: dict[str, str] = {}
        for name, value in self.headers:
            headers.setdefault(name.lower(), value)
        return Request(self.method, self.path, self.target.partition("?")[2], headers, self.body)


def _can_be_sent(name: str, value: str) -> bool:
    """Whether a server lets the line through: no control characters."""
    return bool(name) and all(" " < letter < "\x7f" for letter in name) and not any(c < " " and c != "\t" for c in value)

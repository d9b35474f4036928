"""The server under test: where it is, and what its model takes.

Whatever is not as it was asked for ends here, before anything is measured, in a message that says what to change.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

import orjson

from artifact import Signature
from artifact.operations.raw import RawSpec
from bench import payloads, raw
from bench.errors import NotAsked
from bench.exchange import Answer, exchange
from bench.guess import guess
from bench.payloads import Payload, host_text

LOOK_TIMEOUT_S = 10.0
"""How long a server may take to say what it is."""

_IN_A_PATH = "/%:@!$&'()*+,;=-._~"
_REDIRECTS = {301, 302, 303, 307, 308}
_UNKNOWN = {400, 404}
"""What Triton and the others answer where there is no such model."""
_MISREAD = (ValueError, KeyError, TypeError, AttributeError)
"""What reading a foreign server's JSON may raise."""

Headers = Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Target:
    """A server, a model of it and what that takes; made by `look` and `any_url`.

    `base_path` is empty or `/…` without a slash at its end. `version` is the one that was asked for, None for the default one;
    `versions` are all that are served. `facts` are what the server says of the model in text: if it is ours, `engine`, `threads`,
    `instances` and `max_rows` are among them. Where it states no signature, this one is `guessed` from the protocol's metadata,
    and `notes` say how. `raw_inputs` are those of a model whose operations make its tensors. Not `oip`: any URL, with an empty
    name of the model and an empty signature.
    """

    host: str
    port: int
    base_path: str
    model: str
    version: str | None
    signature: Signature
    facts: Mapping[str, str]
    versions: Sequence[str] = ()
    oip: bool = True
    guessed: bool = False
    notes: Sequence[str] = ()
    raw_inputs: Sequence[RawSpec] = ()


def look(url: str, model: str | None = None, version: str | None = None, headers: Headers = ()) -> Target:
    """Asks a server of the Open Inference Protocol what a model of it takes; without `model`, the only one that it has.

    Raises:
        NotAsked: there is no such URL, server, model or version, or it is not ready.
    """
    host, port, path, query = _parts(url)
    if query:
        raise NotAsked(f"--url {url!r} has a query: give the server's base URL, or --protocol raw to ask a URL as it is")
    server = _Server(host, port, path.rstrip("/"), headers)
    name = server.only_model() if model is None else model
    metadata = server.metadata(name, version)
    server.require_ready(name, version)
    return server.target(name, version, metadata)


def any_url(url: str) -> Target:
    """The target of `--protocol raw`: the URL is asked as it is.

    Raises:
        NotAsked: it is no URL that can be asked.
    """
    host, port, path, query = _parts(url)
    whole = f"{path}?{quote(query, safe=_IN_A_PATH + '?')}" if query else path
    return Target(host, port, whole if path else f"/{whole}", "", None, Signature((), ()), {}, oip=False)


def ask(host: str, port: int, payload: Payload, timeout_s: float = 30.0) -> tuple[int, Mapping[str, str], bytes]:
    """The answer to one request: status, headers (names in lower case) and content.

    Raises:
        NotAsked: there is none, or it is no success: the message has the server's own.
    """
    answer = exchange(host, port, payload, timeout_s)
    if not answer.ok:
        raise answer.refusal(f"http://{host_text(host, port)}{payload.path}")
    return answer.status, answer.headers, answer.content


class _Server:
    """What a server says of itself and its models."""

    def __init__(self, host: str, port: int, base_path: str, headers: Headers) -> None:
        self._host, self._port, self._base_path = host, port, base_path
        self._headers = payloads.extra_headers(headers)
        self._url = f"http://{host_text(host, port)}{base_path}"

    def only_model(self) -> str:
        """The name of the one model that is there."""
        names = self._names()
        if names is None:
            self._require_protocol()
            raise NotAsked(f"{self._url} does not say which models it has: give --model")
        self._require_any(names)
        if len(names) > 1:
            raise NotAsked(f"{self._url} has {len(names)} models: give --model, one of: {', '.join(names)}")
        return names[0]

    def metadata(self, name: str, version: str | None) -> Mapping[str, Any]:
        """What the server says of a model, with its inputs and outputs."""
        path = _model_path(name, version)
        answer = self._exchange("GET", path)
        if answer.status in _UNKNOWN:
            raise self._why_unknown(name, version, answer)
        if answer.status == 503:
            raise self._not_ready(name, version, answer)
        if not answer.ok:
            raise answer.refusal(f"{self._url}{path}")
        found = answer.json()
        if not isinstance(found, dict) or not isinstance(found.get("inputs"), list):
            self._require_protocol()
            raise NotAsked(f"{self._url}{path} says nothing of the model's inputs: {answer.said()}")
        return found

    def require_ready(self, name: str, version: str | None) -> None:
        """Raises NotAsked where the model cannot be asked yet, or any more."""
        answer = self._exchange("GET", f"{_model_path(name, version)}/ready")
        found = answer.json()
        if not answer.ok or (isinstance(found, dict) and found.get("ready") is False):
            raise self._not_ready(name, version, answer)

    def target(self, name: str, version: str | None, metadata: Mapping[str, Any]) -> Target:
        """What was asked for, with the signature that the server states, or the best guess."""
        answer = self._exchange("GET", f"{_model_path(name, version)}/config")
        config = answer.json() if answer.ok else None
        parameters = _parameters(config)
        stated = parameters.pop("signature", None)
        notes: Sequence[str] = ()
        if stated is None:
            signature, notes = self._guess(name, metadata, config)
        else:
            signature = self._signature(name, stated)
        platform = {key: value for key, value in metadata.items() if key == "platform"}
        facts = _texts(platform) | _texts(metadata.get("properties")) | parameters
        versions = metadata.get("versions")
        return Target(
            *(self._host, self._port, self._base_path, name, version, signature, facts),
            versions=[str(one) for one in versions] if isinstance(versions, list) else (),
            guessed=stated is None,
            notes=notes,
            raw_inputs=self._raw_inputs(name, metadata.get("raw_inputs")),
        )

    def _raw_inputs(self, name: str, stated: Any) -> list[RawSpec]:
        try:
            return [raw.spec_from_json(one) for one in stated or ()]
        except _MISREAD as cause:
            raise NotAsked(f"the raw inputs that {self._url} states for {name} are broken: {_reason(cause)}") from cause

    def _signature(self, name: str, stated: str) -> Signature:
        try:
            return Signature.from_json(orjson.loads(stated))
        except _MISREAD as cause:
            raise NotAsked(f"the signature that {self._url} states for {name} is broken: {_reason(cause)}") from cause

    def _guess(self, name: str, metadata: Mapping[str, Any], config: Any) -> tuple[Signature, list[str]]:
        most = config.get("max_batch_size") if isinstance(config, dict) else None
        try:
            signature, notes = guess(metadata, most if isinstance(most, int) else None)
        except _MISREAD as cause:
            raise NotAsked(f"{self._url} describes {name} in a form that is not the protocol's: {_reason(cause)}") from cause
        instead = "use --protocol raw with a body of your own, by --input"
        if not signature.inputs:
            raise NotAsked(f"{self._url} does not say what {name} takes: {instead}")
        for spec in signature.inputs:
            if spec.dtype not in payloads.DATATYPES:
                raise NotAsked(f"input {spec.name!r} of {name} is {spec.dtype}, which the load test cannot write: {instead}")
        return signature, notes

    def _why_unknown(self, name: str, version: str | None, answer: Answer) -> NotAsked:
        names = self._names()
        if names is None:
            self._require_protocol()
        else:
            self._require_any(names)
            if name not in names:
                return NotAsked(f"{self._url} has no model {name!r}; it has: {', '.join(names)}")
        return NotAsked(f"{self._url} does not serve {_shown(name, version)}: {answer.said()}")

    def _require_any(self, names: Sequence[str]) -> None:
        if not names:
            raise NotAsked(f"{self._url} has no model")

    def _require_protocol(self) -> None:
        """Raises NotAsked where this is no server of the Open Inference Protocol."""
        answer = self._exchange("GET", "/v2")
        found = answer.json()
        if not answer.ok or not isinstance(found, dict) or "name" not in found:
            raise NotAsked(
                f"{self._url} is no server of the Open Inference Protocol: {self._base_path}/v2 answered {answer.status}, "
                f"{answer.said()}. Is the path right? Other servers can be asked with --protocol raw"
            )

    def _names(self) -> list[str] | None:
        """All models, by Triton's index or KServe's list; None where the server has neither."""
        found = self._exchange("POST", "/v2/repository/index").json()
        if not isinstance(found, list):
            listed = self._exchange("GET", "/v2/models").json()
            found = listed.get("models") if isinstance(listed, dict) else None
        if not isinstance(found, list):
            return None
        return sorted({str(one.get("name", "")) if isinstance(one, dict) else str(one) for one in found})

    def _not_ready(self, name: str, version: str | None, answer: Answer) -> NotAsked:
        return NotAsked(f"{_shown(name, version)} is not ready at {self._url}, which says: {answer.said()}")

    def _exchange(self, method: str, path: str) -> Answer:
        payload = Payload(self._base_path + path, self._headers, b"", 0, method)
        answer = exchange(self._host, self._port, payload, LOOK_TIMEOUT_S)
        if answer.status in {401, 403}:
            raise answer.refusal(f"{self._url}{path}")
        if answer.status in _REDIRECTS:
            there = answer.headers.get("location", "elsewhere")
            raise NotAsked(f"{self._url}{path} redirects to {there}: give that server's URL")
        return answer


def _parts(url: str) -> tuple[str, int, str, str]:
    """Host, port, path (percent-encoded) and query."""
    wanted = "write http://HOST:PORT"
    try:
        parts = urlsplit(url.strip())
        named = parts.hostname or ""
        host = named if ":" in named else named.encode("idna").decode()
        port = 80 if parts.port is None else parts.port
    except ValueError as cause:  # a port that is no number, brackets without an address, a host name that is none
        raise NotAsked(f"--url {url!r} is no URL of a server ({cause}): {wanted}") from cause
    if parts.username is not None:
        raise NotAsked("--url holds a user's name: send it with --header 'Authorization: Basic …'")
    if parts.scheme == "https":
        raise NotAsked(f"--url {url!r}: https:// is not supported, the load generator speaks plain HTTP: {wanted}")
    if parts.scheme != "http" or not host or not port or parts.fragment:
        raise NotAsked(f"--url {url!r} is no URL of a server: {wanted}")
    return host, port, quote(parts.path, safe=_IN_A_PATH), parts.query


def _model_path(name: str, version: str | None) -> str:
    model = f"/v2/models/{quote(name, safe='')}"
    return model if version is None else f"{model}/versions/{quote(version, safe='')}"


def _shown(name: str, version: str | None) -> str:
    return name if version is None else f"{name} version {version}"


def _parameters(config: Any) -> dict[str, str]:
    """The parameters of Triton's model configuration, as text."""
    found = config.get("parameters") if isinstance(config, dict) else None
    stated = found.items() if isinstance(found, dict) else ()
    return _texts({key: value.get("string_value") for key, value in stated if isinstance(value, dict)})


def _texts(values: Any) -> dict[str, str]:
    return {key: value for key, value in values.items() if isinstance(value, str)} if isinstance(values, dict) else {}


def _reason(cause: Exception) -> str:
    return f"{cause} is missing" if isinstance(cause, KeyError) else str(cause)

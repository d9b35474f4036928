"""Which of TorchServe's handlers a path is for: nothing but its segments decides, in the order in which TorchServe looks."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Oip = Literal["oip_server", "oip_live", "oip_ready", "oip_version"]
Place = Literal["api", "root", "ping", "prediction", Oip, "native", "token", "management", "metrics", "nowhere"]
"""Who answers: `api` and `root` describe the connector, `native` is the application beside TorchServe's paths."""

_OPEN = frozenset({"/docs", "/ui", "/openapi.json", "/ready", "/metrics", "/v2/health/live", "/v2/health/ready"})


@dataclass(frozen=True, slots=True)
class Prediction:
    """Which model is asked: the default version where `version` is None, the only model or the form's where `model` is None.

    `headers` are told to its handler beside the client's; `with_query`: the query's parameters are inputs; `oip`: the path is of
    the Open Inference Protocol, in which the application answers for models that there are not.
    """

    model: str | None
    version: str | None = None
    headers: tuple[tuple[str, str], ...] = ()
    with_query: bool = False
    oip: bool = False


def segments_of(path: str) -> list[str]:
    """The parts of a percent-decoded path, the first is empty; slashes at its end mean nothing."""
    return path.rstrip("/").split("/")


def api_place(segments: list[str]) -> Place | None:
    """What describes the connector: asked before everything else."""
    if segments == [""]:
        return "root"
    return "api" if segments == ["", "api-description"] else None


def inference_place(segments: list[str]) -> tuple[Place, Prediction | None] | None:
    """What the inference connector answers; None where the path is none of its own."""
    if segments[1:2] == ["ping"]:
        return "ping", None
    if (asked := _prediction(segments) or _kserve(segments) or _legacy(segments)) is not None:
        return "prediction", asked
    match segments:
        case ["", "predictions" | "explanations" | "invocations", *_] | ["", "models", _, _] | ["", "models", "predict"]:
            return "nowhere", None
    return None


def is_native(path: str) -> bool:
    """Whether the path is the application's own, beside TorchServe's."""
    return is_open(path) or path == "/v2" or path.startswith("/v2/")


def is_open(path: str) -> bool:
    """Whether such a path needs no token: what describes, and what is asked to learn how the server is."""
    return path in _OPEN or path.startswith(("/docs/", "/ui/"))


def manages(path: str) -> bool:
    """Whether such a path of the application's changes what is served: it asks for the token of the management connector."""
    return path.startswith("/v2/repository/models/")


def management_place(segments: list[str]) -> Place | None:
    """What the management connector answers."""
    match segments:
        case ["", "token", *_]:
            return "token"
        case ["", "v1", "models", _] | ["", "models" | "workflows", *_]:
            return "management"
    return None


def oip_place(segments: list[str], is_native: Callable[[str], bool]) -> Oip | None:
    """What TorchServe's own Open Inference Protocol answers, of the little that differs from the application's."""
    match segments:
        case ["", "v2"]:
            return "oip_server"
        case ["", "v2", "health", "live"]:
            return "oip_live"
        case ["", "v2", "health", "ready"]:
            return "oip_ready"
        case ["", "v2", "models", model, "versions", _, *_] if not is_native(model):
            return "oip_version"
    return None


def _prediction(segments: list[str]) -> Prediction | None:
    match segments:
        case ["", "predictions" | "explanations" as kind, model]:
            return Prediction(model, None, _told(kind, url_path=""))
        case ["", "predictions" | "explanations" as kind, model, version, *more]:
            return Prediction(model, version, _told(kind, url_path="/".join(more)))
        case ["", "invocations"]:
            return Prediction(None, with_query=True)
        case ["", "models", model, "invoke"]:
            return Prediction(model, with_query=True)
    return None


def _kserve(segments: list[str]) -> Prediction | None:
    match segments:
        case ["", "v1", "models", asked]:
            model, _, verbs = asked.partition(":")
            verb = next((verb for verb in ("predict", "explain") if verb in verbs), None)
            return None if verb is None else Prediction(model, None, _told(verb))
        case ["", "v2", "models", model, "infer" | "explain" as verb]:
            return Prediction(model, None, _told(verb), oip=True)
    return None


def _legacy(segments: list[str]) -> Prediction | None:
    match segments:
        case ["", model, "predict"] if model != "models":
            return Prediction(model, with_query=True)
        case ["", model, version, "predict"] if model != "models":
            return Prediction(model, version, with_query=True)
    return None


def _told(kind: str, **url_path: str) -> tuple[tuple[str, str], ...]:
    return ("explain", str(kind.startswith("expla"))), *url_path.items()

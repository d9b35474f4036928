"""Which of TorchServe's handlers a path is for: nothing but its segments decides, in the order in which TorchServe looks."""

from dataclasses import dataclass
from typing import Literal

Place = Literal["api", "root", "ping", "prediction", "oip", "native", "token", "management", "metrics", "nowhere"]
"""Who answers: `api` and `root` describe the connector, `native` is the application beside TorchServe's paths."""

_OPEN = frozenset({"/docs", "/openapi.json", "/ready", "/metrics", "/v2/health/live", "/v2/health/ready"})
_MANAGEMENT = frozenset({"models", "workflows"})


@dataclass(frozen=True, slots=True)
class Prediction:
    """Which model is asked: the default version where `version` is None, the only model or the form's where `model` is None.

    `headers` are told to its handler beside the client's; `with_query`: the query's parameters are inputs.
    """

    model: str | None
    version: str | None = None
    headers: tuple[tuple[str, str], ...] = ()
    with_query: bool = False


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
    match segments:
        case ["", "ping", *_]:
            return "ping", None
        case ["", "predictions" | "explanations" as kind, model]:
            return "prediction", Prediction(model, None, _told(kind, url_path=""))
        case ["", "predictions" | "explanations" as kind, model, version, *more]:
            return "prediction", Prediction(model, version, _told(kind, url_path="/".join(more)))
        case ["", "invocations"]:
            return "prediction", Prediction(None, with_query=True)
        case ["", "models", model, "invoke"]:
            return "prediction", Prediction(model, with_query=True)
        case ["", "predictions" | "explanations" | "invocations", *_] | ["", "models", _, _]:
            return "nowhere", None
    return _kserve(segments) or _legacy(segments)


def native_place(path: str) -> tuple[Place, bool] | None:
    """The application's own paths, and whether a token is asked for; None for a path that it need not be asked for."""
    if path in _OPEN or path.startswith("/docs/"):
        return "native", False
    return ("native", True) if path == "/v2" or path.startswith("/v2/") else None


def management_place(segments: list[str]) -> Place | None:
    """What the management connector answers."""
    match segments:
        case ["", "token"]:
            return "token"
        case ["", "v1", "models", _]:
            return "management"
    return "management" if segments[1] in _MANAGEMENT else None


def _kserve(segments: list[str]) -> tuple[Place, Prediction | None] | None:
    match segments:
        case ["", "v1", "models", asked]:
            model, _, verbs = asked.partition(":")
            for verb in ("predict", "explain"):
                if verb in verbs:
                    return "prediction", Prediction(model, None, _told(verb))
        case ["", "v2", "models", model, "infer" | "explain" as verb]:
            return "prediction", Prediction(model, None, _told(verb))
    return None


def _legacy(segments: list[str]) -> tuple[Place, Prediction | None] | None:
    match segments:
        case ["", "models", "predict"]:
            return "nowhere", None
        case ["", model, "predict"]:
            return "prediction", Prediction(model, with_query=True)
        case ["", model, version, "predict"]:
            return "prediction", Prediction(model, version, with_query=True)
    return None


def _told(kind: str, **url_path: str) -> tuple[tuple[str, str], ...]:
    return ("explain", str(kind.startswith("expla"))), *url_path.items()

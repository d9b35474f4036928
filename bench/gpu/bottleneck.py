"""What holds a served model back from the engine's bound, named by the numbers of one load."""

from dataclasses import dataclass

from bench.results import Round

GOAL = 0.85
"""The share of the engine's bound that is to be served."""
TARGET_MS = 15.0
"""What the 99th percentile of the latencies is to stay under."""

_BUSY = 0.9
_NEARLY = 0.95
_STAGES = ("decode", "queue", "infer", "encode", "client")


@dataclass(frozen=True, slots=True)
class Best:
    """The engine alone at its best: rows in a second, rows of a call, and seconds of one (the median)."""

    rows_per_s: float
    rows: int
    call_s: float


def bottleneck(load: Round, best: Best) -> str:
    """One sentence or two: what the load was short of, and the numbers that say so; the first of these that is true."""
    share = load.rows_per_s / best.rows_per_s
    gpu = max((one.utilisation for one in load.gpus), default=None)
    if share >= GOAL:
        return f"The engine: {share:.2f} of its bound is served."
    if load.client_busy >= _BUSY:
        return f"The load generator: its busiest process used {load.client_busy:.2f} of a core."
    if load.machine_busy is not None and load.machine_busy >= _BUSY:
        return f"The cores: {load.machine_busy:.2f} of all of them were busy, the load generator's included{_by_server(load)}."
    if gpu is not None and gpu >= _NEARLY:
        return f"The GPU: it was busy for {gpu:.2f} of the time{_calls(load, best)}"
    return f"{_longest(load)}{_calls(load, best)}"


def _by_server(load: Round) -> str:
    if load.server is None:
        return ""
    return f"; the server's {load.server.processes} processes used {load.server.cpu_s / load.seconds:.1f} cores"


def _calls(load: Round, best: Best) -> str:
    """How the calls differ from the best ones of the engine alone."""
    stages = load.stages_ms
    if stages is None:
        return "."
    return (
        f"; a call had {stages.rows_per_call:.1f} rows and took {stages.infer:.2f} ms, alone {best.rows} rows take "
        f"{best.call_s * 1e3:.2f} ms."
    )


def _longest(load: Round) -> str:
    stages = load.stages_ms
    if stages is None:
        return "Not known: the server does not tell its stages"
    longest = max(_STAGES, key=lambda name: getattr(stages, name))
    whole = sum(getattr(stages, name) for name in _STAGES)
    return f"No core and no GPU was full: of {whole:.2f} ms, {getattr(stages, longest):.2f} ms are {_NAMES[longest]}"


_NAMES = {
    "decode": "decoding",
    "queue": "waiting for the engine",
    "infer": "the engine's calls",
    "encode": "encoding",
    "client": "the connection, the HTTP server and the client",
}

"""The page of the kills: how many, in the middle of what, and what was found after each."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from foundation.environment import environment
from tests.checkpoints.keeping.history import (
    BEFORE_BEST,
    BEFORE_LATEST,
    BEFORE_SIDECAR,
    BETWEEN,
    OPENING,
    POLICIES,
    PRUNING,
    WRITING,
)

TITLES = {
    "local": "local file system",
    "without-links": "without links and locks",
    "s3": "S3 server",
    "s3-parts": "S3 server, 27 MB in parts",
    "every-call": "before each call",
}

_PLACES = (OPENING, BETWEEN, WRITING, BEFORE_SIDECAR, BEFORE_LATEST, BEFORE_BEST, PRUNING)
_HOW = f"""Made by `make soak-checkpoints`: a warm process forks a training that saves after every step (in a fifth of the steps
it also waits until that is on the disk), kills it with SIGKILL at a random moment, looks at what lies there, and
forks the next, which goes on from it. Kept are {POLICIES}; formats take turns. `without links and locks` is the local
file system under a seccomp filter that refuses `symlink`, `link` and `flock`, as some of NFS does. The S3 server is
moto's, a process of its own, asked over HTTP. `before each call`: each run is killed just before one call that
changes or flushes something in the directory, the first, the second, and so on until a run of three saves ends by
itself.""".replace("\n", " ")
_MUST_HOLD = (
    "After each kill, what lies there is read without any of the Keeper's code, and it must hold that",
    "",
    "- every sidecar's files are there, with its sizes and hashes;",
    "- nothing that the policies keep is missing of what the training was told to be saved, or of what was once found complete;",
    "- `latest` and `best` lead to a complete checkpoint, no older and no worse than what the training was told to be saved;",
    "- they load as the exporter loads them;",
    "- the weights of every checkpoint are, bit for bit, those that training has after as many steps when nobody interrupts it;",
    "- the next run resumes from the newest complete one;",
    "- what unfinished saves leave does not pile up; after a run that ends by itself nothing is left.",
)


def write(path: Path, outcomes: Sequence[Any]) -> None:
    """Writes the page."""
    path.write_text(to_markdown(outcomes))


def to_markdown(outcomes: Sequence[Any]) -> str:
    """The page, one column for each kind of place."""
    facts = environment()
    titles = [TITLES[outcome.kind.name] for outcome in outcomes]
    lines = [
        "# Checkpoints survive `kill -9`",
        "",
        f"{_HOW} The machine's load average was {os.getloadavg()[0]:.1f} at the end.",
        "",
        f"{facts['cpu']}, {facts['cores']} cores; Python {facts['python']}.",
        "",
        *_MUST_HOLD,
        "",
        _cells("", *titles),
        _cells("---", *["---"] * len(titles)),
        _cells("kills", *[outcome.times for outcome in outcomes]),
        _cells("**wrong**", *[f"**{len(outcome.faults)}**" if outcome.faults else "none" for outcome in outcomes]),
        _cells("checkpoints saved", *[f"{len(outcome.history.known):,}" for outcome in outcomes]),
        _cells("checkpoints compared with uninterrupted training", *[f"{len(outcome.history.equal):,}" for outcome in outcomes]),
        _cells("runs that resumed", *[outcome.history.resumed for outcome in outcomes]),
        _cells("most files of unfinished saves at once", *[outcome.history.most_left for outcome in outcomes]),
        _cells("seconds", *[f"{outcome.took_s:.0f}" for outcome in outcomes]),
        "",
        "In the middle of what they were killed, as far as it can be told from what they left:",
        "",
        _cells("killed", *titles),
        _cells("---", *["---"] * len(titles)),
    ]
    lines += [_cells(place, *[outcome.history.killed[place] for outcome in outcomes]) for place in _PLACES]
    faults = [f"- **{TITLES[outcome.kind.name]}: {fault}**" for outcome in outcomes for fault in outcome.faults]
    return "\n".join([*lines, *(["", *faults] if faults else [])]) + "\n"


def _cells(*values: object) -> str:
    return f"| {' | '.join(map(str, values))} |"

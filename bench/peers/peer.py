"""What every peer can do, and the words of a command that both kinds need."""

from collections.abc import Collection, Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol, Self

from artifact import Signature
from bench.errors import NotAsked
from bench.processes import Running
from bench.results import Contender
from foundation.environment import cores

Cpus = Collection[int] | None
"""The cores that a peer may run on; None is all that we may run on ourselves."""

MAX_ROWS = 32
"""The most rows that any peer joins to one call."""
MAX_DELAY_MS = 5
"""How long the first request of a batch waits for others, at any peer."""


class Peer(Protocol):
    """Another server, which runs the same artifact by the same engine. `about` says how, in a sentence."""

    @property
    def key(self) -> str:
        """Its name in results."""
        ...

    @property
    def title(self) -> str:
        """Its name for a person."""
        ...

    @property
    def about(self) -> str:
        """How it runs the model."""
        ...

    def on(self, engine: str, device: str) -> Self:
        """The same peer on another engine than the artifact's first, or another device than `cpu`: those of `artifact.load`."""
        ...

    def require_installed(self) -> None:
        """Raises PeerMissing, which names everything that is missing and how to install it."""
        ...

    def path(self, protocol: str, model: str) -> str:
        """Where it takes a protocol's body. Raises NotAsked where it does not."""
        ...

    def contender(self, artifact_dir: Path, threads: int | None, instances: int, cpus: Cpus) -> Contender:
        """What stands in the results of a peer that is started so: versions and settings."""
        ...

    def start(
        self, artifact_dir: Path, folder: Path, threads: int | None, instances: int, cpus: Cpus
    ) -> AbstractContextManager[Running]:
        """Runs it until the block ends, with all its processes; the block begins once it answers the model.

        `folder` is made where it is not there; the peer's log and files lie in it. `threads` are those of one call of the engine,
        `instances` how many calls our server runs at once.

        Raises:
            ProcessFailed: it did not start, or ended before the block did.
        """
        ...


def path_of(paths: Mapping[str, str], protocol: str, title: str) -> str:
    """The path for a protocol. Raises NotAsked where there is none."""
    if protocol not in paths:
        raise NotAsked(
            f"{title} does not take {protocol}; it takes {', '.join(paths)}: choose one of them, or leave it out of --against"
        )
    return paths[protocol]


def most_rows(signature: Signature) -> int:
    """The most rows that a peer with batching joins to one call of this model."""
    return 1 if signature.batch_dim is None else min(signature.dims[signature.batch_dim].max, MAX_ROWS)


def tied(cpus: Cpus, command: Iterable[str]) -> list[str]:
    """The command on these cores only, with SIGTERM when we end, even if killed; its process id stays the same."""
    on_cpus = [] if cpus is None else ["taskset", "--cpu-list", ",".join(map(str, sorted(cpus)))]
    return ["setpriv", "--pdeathsig", "TERM", *on_cpus, *command]


def core_count(cpus: Cpus) -> int:
    """How many cores' time that is: a container's quota may be less than the cores that are seen."""
    return cores() if cpus is None else min(cores(), len(cpus))

"""The versions of one model: which are served, which failed and why, and which one answers when a request names none.

State and its rules only: nothing here waits, loads or reads a disk. `serving.repository` does.
"""

import asyncio
import heapq
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, Protocol, TypeVar

from serving.errors import BadRequest, ModelNotFound, ModelNotReady, listed
from serving.folders import Stamp, VersionFolder
from serving.plan import Plan
from serving.settings import ModelSettings

State = Literal["READY", "LOADING", "UNLOADING", "UNAVAILABLE"]
DEFAULT = "default"
"""The label that, where it is set, says which version answers a request that names none."""

_LABEL = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")


class LoadedVersion(Protocol):
    """A version that passed its checks, wherever it runs, as far as the repository goes."""

    @property
    def name(self) -> str:
        """The model's name."""
        ...

    @property
    def version(self) -> int:
        """The version's number."""
        ...

    @property
    def settings(self) -> ModelSettings:
        """What held for the model when it was loaded."""
        ...

    @property
    def planned(self) -> Plan:
        """What settings and bench.json said when it was loaded."""
        ...

    async def retire(self) -> None:
        """Waits until every request that entered is answered, then lets the engines go. No request enters any more."""
        ...


Version = TypeVar("Version", bound=LoadedVersion)


@dataclass(slots=True, eq=False)
class ModelVersions(Generic[Version]):
    """One model.

    `folders` are the versions seen on disk last, `earlier` their stamps at the look before that, `tried` the stamps of those that
    were loaded or failed. `pinned` are versions that a client asked for beside the policy's; `trouble` is why the folder could
    not be read; `counts` says whether the server's readiness needs this model.
    """

    name: str
    settings: ModelSettings
    labels: dict[str, int]
    folders: dict[int, VersionFolder] = field(default_factory=dict)
    earlier: dict[int, Stamp] = field(default_factory=dict)
    served: dict[int, Version] = field(default_factory=dict)
    failed: dict[int, str] = field(default_factory=dict)
    tried: dict[int, Stamp] = field(default_factory=dict)
    loading: set[int] = field(default_factory=set)
    retiring: list[Version] = field(default_factory=list)
    pinned: frozenset[int] = frozenset()
    trouble: str | None = None
    unloaded: bool = False
    counts: bool = False
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def there(self) -> bool:
        """Whether there is anything to tell of: on disk, or served."""
        return bool(self.folders or self.served or self.retiring or self.trouble)

    def see(self, folders: dict[int, VersionFolder]) -> None:
        """Takes note of what is on disk now."""
        self.earlier = {version: folder.stamp for version, folder in self.folders.items()}
        self.folders = folders
        self.trouble = None

    def is_settled(self, version: int) -> bool:
        """Whether a version's files were the same the last two times that they were seen: nobody is copying them."""
        return self.earlier.get(version) == self.folders[version].stamp

    def forget_unchosen(self) -> None:
        """Forgets that a version failed which nobody wants any more; should it be chosen again, it is tried again."""
        chosen = self.chosen()
        self.failed = {version: reason for version, reason in self.failed.items() if version in chosen}
        self.tried = {version: stamp for version, stamp in self.tried.items() if version in {*self.failed, *self.served}}

    def chosen(self) -> set[int]:
        """The versions on disk that shall be served: the policy's, the labelled, and the pinned."""
        return (self._by_policy() | set(self.labels.values()) | self.pinned) & self.folders.keys()

    def kept(self) -> set[int]:
        """The served versions that stay. For each chosen one that is not served (yet), the newest other one stays in its place.

        So a model never loses its last good version to a newer one that failed, nor to a directory that was deleted.
        """
        chosen, served = self.chosen(), self.served.keys()
        kept = (chosen | set(self.labels.values())) & served
        stand_ins = max(len(chosen - served), 0 if kept else 1)
        return kept | set(heapq.nlargest(stand_ins, served - kept))

    def default(self) -> Version | None:
        """Which version answers where none is named: the label `default`, else the newest of the policy's, else the newest."""
        if DEFAULT in self.labels:
            return self.served.get(self.labels[DEFAULT])
        newest = max(self._by_policy() & self.served.keys() or self.served, default=None)
        return None if newest is None else self.served[newest]

    def routes(self) -> dict[str | None, Version]:
        """Every name by which a request may ask for a version, None among them, to the version that answers."""
        routes: dict[str | None, Version] = {str(version): served for version, served in self.served.items()}
        routes |= {label: self.served[version] for label, version in self.labels.items() if version in self.served}
        default = self.default()
        return routes if default is None else {**routes, None: default}

    def require_label(self, label: str, version: int) -> None:
        """Whether the label may stand for the version.

        Raises:
            BadRequest: it looks like no label, or the version is not served.
        """
        if not _LABEL.fullmatch(label):
            raise BadRequest(
                f"{label!r} is not a label: it should be a letter, then letters, digits, '_' and '-' (digits are a version)"
            )
        if version not in self.served:
            raise BadRequest(f"version {version} of {self.name} is not served ({self._offer()}); load it first")

    def index(self, on_disk: Mapping[int, VersionFolder]) -> list[dict[str, Any]]:
        """What Triton's repository index says of each version on disk or served, ascending."""
        versions = sorted({*on_disk, *self.served, *(served.version for served in self.retiring)})
        states = {version: self._state(version) for version in versions}
        return [
            {"name": self.name, "version": str(version), "state": state, "reason": reason}
            for version, (state, reason) in states.items()
        ]

    def why_not(self, asked: str | None) -> ModelNotFound | ModelNotReady:
        """Why a version, a label or (None) the default is not served."""
        if asked is None:
            return self._why_no_default()
        number = self.labels.get(asked)
        if number is not None:
            return ModelNotReady(f"the label {asked} of {self.name} stands for version {number}, which {self._what_of(number)}")
        number = next((version for version in (*self.folders, *self.failed) if str(version) == asked), None)
        if number is None:
            return ModelNotFound(f"{self.name} has no version or label {asked!r}; {self._offer()}")
        waits = number in self.loading or number in self.failed
        kind = ModelNotReady if waits else ModelNotFound
        return kind(f"version {number} of {self.name} {self._what_of(number)}; {self._offer()}")

    def warnings(self) -> list[str]:
        """What is wrong although the model may well answer."""
        return [
            *([self.trouble] if self.trouble else []),
            *(f"version {version} failed its checks: {reason}" for version, reason in sorted(self.failed.items())),
            *(
                f"the label {label} stands for version {version}, which {self._what_of(version)}"
                for label, version in sorted(self.labels.items())
                if version not in self.served and version not in self.failed and not self.unloaded
            ),
            *(
                f"version {version} is served, but no longer on disk"
                for version in sorted(self.served.keys() - self.folders.keys())
            ),
        ]

    def nothing_chosen(self) -> str:
        """What to say where the policy leaves nothing to serve."""
        on_disk = listed([*self.folders])
        return f"the version policy {self.settings.version_policy} chooses none of the versions on disk ({on_disk})"

    def _by_policy(self) -> set[int]:
        return set(self.settings.version_policy.chosen(sorted(self.folders)))

    def _state(self, version: int) -> tuple[State, str]:
        if version in self.served:
            return "READY", self.failed.get(version, "")
        if version in self.loading:
            return "LOADING", ""
        if any(served.version == version for served in self.retiring):
            return "UNLOADING", ""
        return "UNAVAILABLE", self.failed.get(version) or self._why_not_tried(version)

    def _what_of(self, version: int) -> str:
        """The end of a sentence that begins with a version which is not served."""
        if version in self.loading:
            return "is being loaded"
        if version in self.failed:
            return f"failed its checks: {self.failed[version]}"
        return self._why_not_tried(version) if version in self.folders else "is not on disk"

    def _why_not_tried(self, version: int) -> str:
        load = f"POST /v2/repository/models/{self.name}/load"
        if self.unloaded:
            return f"was unloaded; {load} loads it again"
        if version not in self.folders:
            return f"is new on disk and not loaded; {load} loads it"
        if version in self.chosen():
            return "is not complete on disk yet"
        return f"is not chosen by the version policy {self.settings.version_policy}"

    def _why_no_default(self) -> ModelNotFound | ModelNotReady:
        if self.unloaded:
            return ModelNotFound(f"{self.name} was unloaded; POST /v2/repository/models/{self.name}/load loads it again")
        if DEFAULT in self.labels and not self.loading:
            return self.why_not(DEFAULT)
        if self.loading:
            return ModelNotReady(f"{self.name} is being loaded")
        if self.trouble:
            return ModelNotReady(f"{self.name} is not ready: {self.trouble}")
        if self.failed:
            reasons = (f"version {version} failed its checks: {reason}" for version, reason in sorted(self.failed.items()))
            return ModelNotReady(f"{self.name} is not ready: {'; '.join(reasons)}")
        return ModelNotReady(f"{self.name} is not ready: {self.nothing_chosen()}")

    def _offer(self) -> str:
        """What is served, for a client that asked for something else."""
        labels = [f"{label} ({version})" for label, version in sorted(self.labels.items())]
        return f"versions served: {listed(sorted(self.served))}; labels: {listed(labels)}"

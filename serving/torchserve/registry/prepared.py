"""An archive that was found and unpacked: what is left to do is to enter it."""

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from serving.folders import model_names
from serving.torchserve.archives.mar import Mar, unpack
from serving.torchserve.archives.mar_manifest import Overrides
from serving.torchserve.errors import InvalidModelException
from serving.torchserve.registry.downloads import Archive, locate
from serving.torchserve.registry.registration import Registration, parameters
from serving.torchserve.registry.startup import SUFFIXES
from serving.torchserve.workers.parameters import Parameters

if TYPE_CHECKING:
    from serving.settings import Settings

_NO_NAME = re.compile(r"\W|^_", re.ASCII)
"""What TorchServe replaces by _ where it calls a model as its file is called."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """An unpacked archive, and how its workers shall work. `has_artifact`: the model repository holds an artifact of its name."""

    wanted: Registration
    archive: Archive
    mar: Mar
    parameters: Parameters
    has_artifact: bool

    def remove_files(self) -> None:
        """Removes what was unpacked. Blocking."""
        shutil.rmtree(self.mar.directory, ignore_errors=True)

    def discard(self) -> None:
        """Removes what was unpacked, and what was fetched. Blocking."""
        self.remove_files()
        self.archive.discard()


def prepare(  # noqa: PLR0913, PLR0917 - an archive, all that says how it is run, and how it ends
    wanted: Registration, store: Path, into: Path, settings: "Settings", default_workers: int, go_on: Callable[[], None]
) -> Prepared:
    """Finds or fetches an archive, and unpacks it below `into`; after a failure nothing of it is left. Blocking.

    `go_on` is called with every piece, and raises what ends the work.

    Raises:
        TorchServeError: it cannot be found, fetched or unpacked, or is not one that can be run here.
    """
    go_on()
    archive = locate(wanted.url, store, settings.allowed_urls, may_be_there=wanted.at_start, go_on=go_on)
    try:
        mar = unpack(archive.path, into, _asked(wanted, archive, settings), go_on)
    except BaseException:
        archive.discard()
        raise
    try:
        _require_served(mar, wanted)
        held = parameters(wanted, mar, settings, default_workers)
    except BaseException:
        shutil.rmtree(mar.directory, ignore_errors=True)
        archive.discard()
        raise
    return Prepared(wanted, archive, mar, held, mar.name in _artifacts(settings.repository_root))


def _asked(wanted: Registration, archive: Archive, settings: "Settings") -> Overrides:
    """What a registration says itself. A nameless archive of the start is called as its file is; a client has to name it."""
    stem = next((archive.path.name.removesuffix(end) for end in SUFFIXES if archive.path.name.endswith(end)), archive.path.name)
    return Overrides(
        wanted.name,
        wanted.handler,
        wanted.runtime,
        default_name=_NO_NAME.sub("_", stem) if wanted.at_start else "",
        default_handler=settings.default_service_handler or "",
    )


def _require_served(mar: Mar, wanted: Registration) -> None:
    """Refuses what needs more than one process, or is not what was meant."""
    if mar.model_config.unsupported:
        keys = ", ".join(mar.model_config.unsupported)
        raise InvalidModelException(
            f"Model {mar.name} asks for what is not served here: {keys} in its model-config.yaml. A worker here is one process, "
            "on one GPU or none; take these keys out, or run the model on a server for large models."
        )
    if wanted.version not in {None, mar.version}:
        raise InvalidModelException(
            f"{wanted.url} is version {mar.version} of {mar.name}, and should be version {wanted.version}"
        )


def _artifacts(repository: Path) -> list[str]:
    """The names in the model repository, which need not be there."""
    try:
        return model_names(repository)
    except OSError:
        return []

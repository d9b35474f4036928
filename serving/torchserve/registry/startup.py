"""What is registered at the start: what load_models names, or what a snapshot knows. All of it blocks."""

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from serving.errors import ServingError
from serving.torchserve.archives.mar_manifest import PLACE
from serving.torchserve.registry.registration import Registration, restored

log = logging.getLogger("stateserve")

ALL = "all"
NOTHING = frozenset({"", "none", "standalone"})
"""Words of load_models that name no archive."""
SUFFIXES = (".mar", ".model", ".tar.gz")
_INSTEAD = "mend it, or start without snapshots (--ncs)"


class SnapshotInvalid(ServingError):
    """A snapshot cannot be restored (the server does not start)."""

    exit_code = 2


def to_load(load_models: Iterable[str], store: Path) -> list[Registration]:
    """What load_models says: `all`, or `file` and `name=file` entries."""
    entries = [entry for entry in load_models if entry.lower() not in NOTHING]
    if any(entry.lower() == ALL for entry in entries):
        return [Registration(url=name) for name in _in_store(store)]
    return [_entry(entry) for entry in entries]


def from_snapshot(snapshot: Mapping[str, Any], store: Path) -> list[Registration]:
    """What a snapshot says.

    Raises:
        SnapshotInvalid: it is none, or names an archive that is not in the model store.
    """
    name, models = snapshot.get("name", "model_snapshot"), snapshot.get("models")
    if not isinstance(models, Mapping) or not all(isinstance(versions, Mapping) for versions in models.values()):
        raise SnapshotInvalid(f"{name} is no snapshot: its models should be {{NAME: {{VERSION: {{...}}}}}}; {_INSTEAD}")
    found = []
    for model, versions in models.items():
        for version, entry in versions.items():
            if not isinstance(entry, Mapping):
                raise SnapshotInvalid(f"{name} is no snapshot: version {version} of model {model} is no object; {_INSTEAD}")
            wanted = restored(model, version, entry)
            if not wanted.url or not (store / wanted.url).exists():
                raise SnapshotInvalid(
                    f"Model archive file for model :{model}, version :{version} not found in model store: {name} says "
                    f"{wanted.url or 'no marName'}, which is not in {store}; {_INSTEAD}"
                )
            found.append(wanted)
    return found


def _entry(text: str) -> Registration:
    name, separator, url = text.partition("=")
    if not separator or "/" in name or ":" in name:  # an address with a query
        return Registration(url=text)
    return Registration(url=url.strip(), name=name.strip())


def _in_store(store: Path) -> list[str]:
    """Archives, and folders that are archives; a folder of anything else is left alone."""
    try:
        there = sorted(path for path in store.iterdir() if not path.name.startswith("."))
    except (FileNotFoundError, NotADirectoryError):  # a warning at the start said so
        return []
    except OSError as error:
        log.error("the model store %s cannot be read: %s", store, error.strerror)  # noqa: TRY400 - nothing more is known
        return []
    return [path.name for path in there if (path / PLACE).is_file() or (path.name.endswith(SUFFIXES) and path.is_file())]

"""The model repository: `<name>/<version>/` on disk, the newest version of each model in memory."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from artifact.manifest import versions
from serving.errors import ModelNotFound, NoRepository
from serving.model import ServedModel, load_model


@dataclass(frozen=True, slots=True)
class Repository:
    """The models of one root. Made by `load_repository`."""

    root: Path
    models: dict[str, ServedModel] = field(default_factory=dict)

    def model(self, name: str) -> ServedModel:
        """The model of that name.

        Raises:
            ModelNotFound: there is none.
        """
        if name not in self.models:
            raise ModelNotFound(f"no model is called {name!r}; there are: {', '.join(sorted(self.models)) or 'none'}")
        return self.models[name]

    def not_ready(self) -> list[ServedModel]:
        """The models that failed their checks."""
        return [model for model in self.models.values() if model.loaded is None]

    @property
    def ready(self) -> bool:
        """Whether there is a model, and every one passed its checks."""
        return bool(self.models) and not self.not_ready()


def load_repository(root: Path, threads: int | None) -> Repository:
    """Loads the newest version of every model below the root.

    Raises:
        NoRepository: the root is not a directory.
    """
    if not root.is_dir():
        raise NoRepository(f"the model repository {root} is not a directory; export there first, or say another --repository")
    return Repository(root, {name: load_model(name, version, path, threads) for name, version, path in newest_versions(root)})


def newest_versions(root: Path) -> Iterator[tuple[str, int, Path]]:
    """Name, version and directory of the newest version of each model, by name."""
    for model in sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")):
        there = {number: path for number, path in versions(model).items() if path.is_dir()}
        if there:
            newest = max(there)
            yield model.name, newest, there[newest]

"""Which version answers a request in a front end, as control last said: one table for each model."""

from collections.abc import Mapping

from serving.inference import NotHere
from serving.served import ServedVersion

DEFAULT = ""
"""How control names the version that answers where a request names none."""


class Routes:
    """Every model's names of versions, to the versions that answer. Changed between two requests, by one assignment."""

    def __init__(self) -> None:
        self._tables: dict[str, dict[str | None, ServedVersion]] = {}

    def find(self, name: str, version: str | None = None) -> ServedVersion:
        """The version that answers, by number or label; None is the default one. For every request: two look-ups.

        Raises:
            NotHere: control knows why there is none.
        """
        try:
            return self._tables[name][version]
        except KeyError:
            raise NotHere from None

    def lead(self, model: str, versions: Mapping[str, ServedVersion]) -> None:
        """Sets the whole table of a model, by number, label and `DEFAULT`; an empty one takes the model away."""
        if versions:
            self._tables[model] = {None if name == DEFAULT else name: served for name, served in versions.items()}
        else:
            self._tables.pop(model, None)

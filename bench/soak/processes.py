"""How many processes the server of a scenario is."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Processes:
    """So many front ends, and so many engine processes for each model whose calls are long; 1 and 0: one process does it all."""

    frontends: int = 1
    engines: int = 0

    def __str__(self) -> str:
        if not self.are_several:
            return "one process"
        ends = "1 front end" if self.frontends == 1 else f"{self.frontends} front ends"
        return f"{ends} and {self.engines} engine process{'' if self.engines == 1 else 'es'}" if self.engines else ends

    @property
    def are_several(self) -> bool:
        """Whether there is more than one process."""
        return self.frontends > 1 or self.engines > 0

    def flags(self, models: Mapping[str, Mapping[str, Any]]) -> tuple[str, ...]:
        """The server's flags, with these settings of models."""
        return (
            "--frontends",
            str(self.frontends),
            "--model-settings",
            json.dumps({n: self._own(one) for n, one in models.items()}),
        )

    def _own(self, own: Mapping[str, Any]) -> Mapping[str, Any]:
        """A model's settings: with engine processes `thread` means threads in those, without them `process` means threads."""
        execution = own.get("execution")
        if execution not in {"thread", "process"}:
            return own
        return {**own, "instances": self.engines} if self.engines else {**own, "execution": "thread"}


ALONE = Processes()
"""One process."""

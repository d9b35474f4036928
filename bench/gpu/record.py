"""The results as they grow: `gpu.json`, written whole after every finding, so that a run that is cut off keeps what it has."""

import datetime as dt
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench.errors import NoResults, NotWritten
from bench.gpu.stage import Finding, Findings, Run

SCHEMA = 1


@dataclass(slots=True)
class StageRecord:
    """One stage: `status` is that of `Run`, or `under way`, which stays where the whole run was ended in it."""

    made_at: str
    status: str = "under way"
    seconds: float = 0.0
    error: str | None = None
    findings: list[dict[str, Any]] = field(default_factory=list)

    @property
    def went_well(self) -> bool:
        """Whether it came to its end, and nothing in it failed."""
        return self.status == "done" and not any("failed" in one for one in self.findings)


@dataclass(slots=True)
class Record:
    """All stages that were run, in order, and the file that holds them (None: none)."""

    path: Path | None
    command: str
    device: str
    plan: str
    stages: dict[str, StageRecord] = field(default_factory=dict)

    def begin(self, stage: str) -> None:
        """A stage begins; what is there of it from before is let go."""
        self.stages[stage] = StageRecord(dt.datetime.now(dt.UTC).isoformat(timespec="seconds"))
        self.write()

    def found(self, stage: str, finding: Finding) -> None:
        """A stage found something."""
        self.stages[stage].findings.append(dict(finding))
        self.write()

    def ended(self, stage: str, run: Run) -> None:
        """A stage has ended."""
        one = self.stages[stage]
        one.status, one.seconds, one.error = run.status, run.seconds, run.error
        self.write()

    @property
    def findings(self) -> Findings:
        """What each stage found."""
        return {name: one.findings for name, one in self.stages.items()}

    def write(self) -> None:
        """Writes the file whole, or leaves it as it was.

        Raises:
            NotWritten: it cannot be written.
        """
        if self.path is None:
            return
        temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        try:
            temporary.write_text(json.dumps({"schema": SCHEMA, **_plain(self)}, indent=1) + "\n")
            temporary.replace(self.path)
        except OSError as cause:
            raise NotWritten(f"{self.path} cannot be written: {cause.strerror}") from cause


def read_stages(path: Path) -> dict[str, StageRecord]:
    """The stages of a file that was written before; none where there is no file.

    Raises:
        NoResults: it is no gpu.json of this schema.
    """
    if not path.exists():
        return {}
    try:
        stated = json.loads(path.read_bytes())
        if stated["schema"] != SCHEMA:
            raise NoResults(f"{path} is of schema {stated['schema']}, not {SCHEMA}: delete it, and measure again")
        return {name: StageRecord(**one) for name, one in stated["stages"].items()}
    except (OSError, ValueError, KeyError, TypeError) as cause:
        raise NoResults(f"{path} is no gpu.json of schema {SCHEMA} ({cause!r}): delete it, and measure again") from cause


def _plain(record: Record) -> Mapping[str, Any]:
    return {key: value for key, value in asdict(record).items() if key != "path"}

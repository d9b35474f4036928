"""What a run of one target was like, and what it found."""

import hashlib
import json
import resource
import traceback
from dataclasses import asdict, dataclass, field
from pathlib import Path


@dataclass
class Seen:
    """Numbers of one target, for the page. Sizes in KiB are resident memory: when it was warm, and at the end."""

    target: str
    inputs: int = 0
    taken: int = 0
    seconds: float = 0.0
    slowest_s: float = 0.0
    slowest_bytes: int = 0
    warm_kib: int = 0
    end_kib: int = 0
    findings: list[str] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)

    def took(self, data: bytes, seconds: float, folder: Path) -> None:
        """Counts an input; the slowest is kept as a file."""
        self.inputs += 1
        if seconds > self.slowest_s:
            self.slowest_s, self.slowest_bytes = seconds, len(data)
            (folder / f"{self.target}-slowest.http").write_bytes(data)

    def broke(self, data: bytes, error: Exception, kind: str, folder: Path) -> None:
        """Keeps the first input of each kind as a file."""
        if kind in self.kinds:
            return
        self.kinds.append(kind)
        file = folder / f"{self.target}-broken-{hashlib.sha256(data).hexdigest()[:12]}.http"
        file.write_bytes(data)
        self.findings.append(f"{file.name}: {type(error).__name__}: {error!s:.200}")
        traceback.print_exception(error)

    def end(self, folder: Path, seconds: float, end_kib: int, most_growth_kib: int) -> None:
        """The last numbers; all of them are written to TARGET.json."""
        self.seconds, self.end_kib = seconds, end_kib
        if self.warm_kib and end_kib - self.warm_kib > most_growth_kib:
            self.findings.append(f"memory grew by {(end_kib - self.warm_kib) >> 10} MiB")
        self.write(folder)

    def write(self, folder: Path) -> None:
        """TARGET.json, as it is now."""
        (folder / f"{self.target}.json").write_text(json.dumps(asdict(self), indent=1))


def resident_kib(process: int | str = "self") -> int:
    """The memory of a process, as it is now."""
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * resource.getpagesize() // 1024

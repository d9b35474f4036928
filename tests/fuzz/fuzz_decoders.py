"""Coverage-guided fuzzing of one target, with atheris (libFuzzer): `python -m tests.fuzz.fuzz_decoders TARGET RUNS FOLDER`.

FOLDER gets the corpus, one input for each way in which something broke (TARGET-broken-*.http; TARGET-timeout-* where it hung), and
TARGET.json: how many inputs, how long, the slowest, how the memory grew. The targets are those of `targets.py`.
"""

import hashlib
import json
import resource
import sys
import time
import traceback
from dataclasses import asdict, dataclass, field
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["serving.protocols", "serving.body", "serving.error_answer", "serving.inference", "artifact.signature"]):
    from tests.fuzz.targets import TARGETS, Target

from tests.fuzz import seeds
from tests.fuzz.mutate import MOST_BYTES, mutated

MOST_CPU_S = 1.0
HANG_S = 20
WARM = 0.2
"""The part of the inputs after which memory is compared with."""
MOST_GROWTH_KIB = 64 << 10
"""libFuzzer itself keeps what it finds."""
_OWN_SHARE = 200  # of 256: our mutations; the rest are libFuzzer's own


@dataclass
class Seen:
    """What a run of one target was like. Sizes in KiB are the process's resident memory."""

    target: str
    inputs: int = 0
    taken: int = 0
    seconds: float = 0.0
    slowest_s: float = 0.0
    slowest_input: str = ""
    slowest_bytes: int = 0
    warm_kib: int = 0
    end_kib: int = 0
    findings: list[str] = field(default_factory=list)


def resident_kib() -> int:
    """The memory of this process, as it is now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() // 1024


def mutate(data: bytes, max_size: int, seed: int) -> bytes:
    """A damaged request; by libFuzzer's own means now and then, which learns from comparisons."""
    changed = mutated(data, seed) if seed % 256 < _OWN_SHARE else atheris.Mutate(data, max_size)
    return changed[:max_size]


class Run:
    """Counts and times the inputs of one target. What breaks it is kept, and does not end it."""

    def __init__(self, name: str, runs: int, folder: Path) -> None:
        self.target: Target = TARGETS[name][0]()
        self._folder = folder
        self._known: set[object] = set()
        self.seen = Seen(name)
        self._warm_at = max(1, int(runs * WARM))
        self._began = time.perf_counter()

    def __call__(self, data: bytes) -> None:
        seen = self.seen
        began = time.thread_time()
        try:
            self.target(data)
        except Exception as error:  # noqa: BLE001 - whatever it is, it was found
            self._keep(data, error)
        taken_s = time.thread_time() - began
        seen.inputs += 1
        if taken_s > seen.slowest_s:
            seen.slowest_s, seen.slowest_input, seen.slowest_bytes = taken_s, hashlib.sha256(data).hexdigest()[:12], len(data)
            if taken_s > MOST_CPU_S:
                self._keep(data, TimeoutError(f"{taken_s:.1f} s for {len(data)} bytes"))
        if seen.inputs == self._warm_at:
            seen.warm_kib = resident_kib()

    def _keep(self, data: bytes, error: Exception) -> None:
        """The first input of each kind: the error's type, and where it was raised."""
        last = traceback.extract_tb(error.__traceback__)[-1:]
        kind = (type(error), *((frame.filename, frame.lineno) for frame in last))
        if kind not in self._known:
            self._known.add(kind)
            file = self._folder / f"{self.seen.target}-broken-{hashlib.sha256(data).hexdigest()[:12]}.http"
            file.write_bytes(data)
            self.seen.findings.append(f"{file.name}: {type(error).__name__}: {error!s:.200}")
            traceback.print_exception(error)

    def finish(self) -> Seen:
        """What was seen, at the end."""
        seen = self.seen
        seen.seconds, seen.end_kib = time.perf_counter() - self._began, resident_kib()
        seen.taken = getattr(self.target, "taken", 0)
        if seen.warm_kib and seen.end_kib - seen.warm_kib > MOST_GROWTH_KIB:
            seen.findings.append(f"memory grew by {(seen.end_kib - seen.warm_kib) >> 10} MiB")
        return seen


def main(name: str, runs: int, folder: Path) -> None:
    """Fuzzes one target for so many inputs."""
    corpus, first = folder / "corpus" / name, folder / "seeds" / name
    corpus.mkdir(parents=True, exist_ok=True)
    seeds.write(first, TARGETS[name][1])
    run = Run(name, runs, folder)
    options = [
        *(f"-atheris_runs={runs}", f"-max_len={MOST_BYTES}", f"-timeout={HANG_S}", "-rss_limit_mb=4096", "-use_value_profile=0"),
        *("-len_control=0", "-verbosity=0", f"-artifact_prefix={folder}/{name}-", str(corpus), str(first)),
    ]
    atheris.Setup([sys.argv[0], *options], run, custom_mutator=mutate)
    report = folder / f"{name}.json"
    report.write_text(json.dumps(asdict(Seen(name, findings=["it did not come to its end"]))))  # for who is killed
    try:
        atheris.Fuzz()
    finally:
        report.write_text(json.dumps(asdict(run.finish()), indent=1))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))

"""Coverage-guided fuzzing of one target, with atheris (libFuzzer): `python -m tests.fuzz.fuzz_decoders TARGET RUNS FOLDER`.

FOLDER gets the corpus, one input for each way in which something broke (TARGET-broken-*.http; TARGET-timeout-* if it hung), and
TARGET.json: how many inputs, how long, the slowest, how the memory grew. The targets are those of `targets.py`.
"""

import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import atheris
from atheris import import_hook

with import_hook.instrument_imports(include=["serving", "artifact.signature", "artifact.operations"]):
    from tests.fuzz import raw_targets, targets

from tests.fuzz import mutate_raw, raw_seeds, seeds
from tests.fuzz.mutate import MOST_BYTES, mutated
from tests.fuzz.seen import Seen, resident_kib

TARGETS = {**targets.TARGETS, **raw_targets.TARGETS}
KINDS = {**seeds.KINDS, **raw_seeds.KINDS}
HOSTILE = Path(__file__).parents[1] / "hostile" / "http"
MOST_CPU_S = 1.0
HANG_S = 20
WARM = 0.2
"""The part of the inputs after which memory is compared with."""
MOST_GROWTH_KIB = 64 << 10
"""libFuzzer itself keeps what it finds."""
_OWN_SHARE = 200  # of 256: our changes; the rest are libFuzzer's own, which learns from comparisons


def mutator(name: str) -> Callable[[bytes, int, int], bytes]:
    """The function that damages requests of a target."""
    ours = mutate_raw.mutated if name in raw_targets.TARGETS else mutated

    def mutate(data: bytes, max_size: int, seed: int) -> bytes:
        changed = ours(data, seed) if seed % 256 < _OWN_SHARE else atheris.Mutate(data, max_size)
        return changed[:max_size]

    return mutate


class Run:
    """Counts and times the inputs of one target. What breaks it is kept, and does not end it."""

    def __init__(self, name: str, runs: int, folder: Path) -> None:
        self.seen = Seen(name, findings=["it did not come to its end"])
        self.seen.write(folder)  # for one that is killed
        self.seen.findings.clear()
        self._target = TARGETS[name][0]()
        self._folder = folder
        self._warm_at = max(1, int(runs * WARM))
        self._began = time.perf_counter()

    def __call__(self, data: bytes) -> None:
        try:
            self._target(data)
        except Exception as error:  # noqa: BLE001 - whatever it is, it was found
            last = traceback.extract_tb(error.__traceback__)[-1]
            self.seen.broke(data, error, f"{type(error)} {last.filename}:{last.lineno}", self._folder)
        spent_s = self._target.spent_s
        self.seen.took(data, spent_s, self._folder)
        if spent_s > MOST_CPU_S:
            self.seen.broke(data, TimeoutError(f"{spent_s:.1f} s for {len(data)} bytes"), "slow", self._folder)
        if self.seen.inputs == self._warm_at:
            self.seen.warm_kib = resident_kib()

    def end(self) -> None:
        """Writes what was seen."""
        self.seen.taken = self._target.taken
        self.seen.end(self._folder, time.perf_counter() - self._began, resident_kib(), MOST_GROWTH_KIB)


def main(name: str, runs: int, folder: Path) -> None:
    """Fuzzes one target for so many inputs."""
    corpus, first = folder / "corpus" / name, folder / "seeds" / name
    corpus.mkdir(parents=True, exist_ok=True)
    seeds.write(first, {kind: KINDS[kind] for kind in TARGETS[name][1]})
    run = Run(name, runs, folder)
    options = [
        *(f"-atheris_runs={runs}", f"-max_len={MOST_BYTES}", f"-timeout={HANG_S}", "-rss_limit_mb=4096", "-len_control=0"),
        *("-verbosity=0", f"-artifact_prefix={folder}/{name}-", str(corpus), str(first), str(HOSTILE)),
    ]
    atheris.Setup([sys.argv[0], *options], run, custom_mutator=mutator(name))
    try:
        atheris.Fuzz()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)  # libFuzzer's own, which would end the process while it ends
        run.end()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))

"""What differs between two machines of what decides the numbers, worst first: in the order of `foundation.severity`."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from foundation.environment import VARIABLES
from foundation.severity import WORST_FIRST, Severity

NOT_SET = "not set"
_FIRST_VARIABLES = frozenset({"ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "MKL_CBWR", "OMP_NUM_THREADS", "MKL_NUM_THREADS"})
"""Of the other variables, records of the first form (those without `os`) do not tell that they were not set."""
_LONGEST = 60
"""Characters of a value that are shown: records are read from files of others."""
_DEEPEST = 5
_GROUP = re.compile(r"^packages\.|^threads\.|^seeds\.|^variables\.\w+\.|(?<=^torch\.)(precision|kernels|determinism|types)\.")
"""The part of a fact's name that says what it decides, which the person knows from the order."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One fact that was `there` (where the record was made) and is another `here`; `severity` 1 is the worst.

    `concerns`: whose numbers depend on it, in the words of `foundation.severity`.
    """

    severity: int
    kind: str
    fact: str
    there: str
    here: str
    concerns: tuple[str, ...]
    why: str

    def __str__(self) -> str:
        return f"{self.fact}: {self.there} there, {self.here} here; {self.why}"

    def to_json(self) -> dict[str, Any]:
        """The difference as JSON."""
        names = ("severity", "kind", "fact", "there", "here", "concerns", "why")
        return {name: getattr(self, name) for name in names} | {"concerns": list(self.concerns)}


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> tuple[Difference, ...]:
    """What differs between two records of `foundation.environment`, worst first; what one of them does not tell is left out.

    Total: a record of an older version, or one that is no record at all, has fewer facts, and raises nothing.
    """
    return tuple(_differences(_facts(there), _facts(here)))


def _differences(there: Mapping[str, str], here: Mapping[str, str]) -> Iterator[Difference]:
    compared: set[str] = set()
    for number, severity in enumerate(WORST_FIRST, 1):
        for pattern, concerns in severity.facts:
            for fact in sorted(name for name in there.keys() & here.keys() if _matches(name, pattern) and name not in compared):
                compared.add(fact)
                if there[fact] != here[fact]:
                    values = _shown(there[fact], here[fact])
                    yield Difference(number, severity.name, _GROUP.sub("", fact), *values, concerns, severity.why)


def by_severity(record: Mapping[str, Any]) -> list[tuple[Severity, dict[str, str]]]:
    """A record's facts, by name, with the severity of a difference in them: worst first, each fact once."""
    facts, told = _facts(record), []
    for severity in WORST_FIRST:
        named = {fact for pattern, _ in severity.facts for fact in facts if _matches(fact, pattern)}
        told.append((severity, {_GROUP.sub("", fact): facts.pop(fact) for fact in sorted(named)}))
    return told


def _matches(fact: str, pattern: str) -> bool:
    return fact.startswith(pattern[:-1]) if pattern.endswith("*") else fact == pattern


def _facts(record: Mapping[str, Any]) -> dict[str, str]:
    """A record's facts by the names of `foundation.severity`; what is not what a record has there is left out."""
    flat = dict(_flat(record, "", _DEEPEST))
    variables = {name: value for name, value in flat.items() if name.startswith("variables.")}
    facts = {name: value for name, value in flat.items() if name not in variables}
    facts |= {
        f"variables.{kind}.{name}": variables.get(f"variables.{name}", NOT_SET)
        for kind, names in VARIABLES.items()
        for name in names
        if isinstance(record.get("variables"), Mapping) and ("os" in record or name in _FIRST_VARIABLES)
    }
    engine = facts.get("packages.onnxruntime-gpu", facts.get("packages.onnxruntime"))  # two packages of one library
    return {**facts, **_listed(record), **({"onnxruntime": engine} if engine else {})}


def _flat(value: Any, path: str, deepest: int) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping) and deepest > 0:
        for name, inner in value.items():
            yield from _flat(inner, f"{path}.{name}" if path else str(name), deepest - 1)
    elif value is None or isinstance(value, (str, int, float)):
        yield path, "none" if value is None else str(value)


def _listed(record: Mapping[str, Any]) -> dict[str, str]:
    isa, gpus = record.get("isa"), record.get("gpus")
    found = {"instruction sets": " ".join(sorted(map(str, isa)))} if isinstance(isa, list) else {}
    if isinstance(gpus, list):
        found["GPUs"] = ", ".join(sorted(str(gpu.get("name")) for gpu in gpus if isinstance(gpu, Mapping))) or "none"
    return found


def _shown(there: str, here: str) -> tuple[str, str]:
    """Both values; where they are long lists, what each has that the other has not."""
    if max(len(there), len(here)) <= _LONGEST:
        return there, here
    theirs, ours = there.split(), here.split()
    return _also(word for word in theirs if word not in ours), _also(word for word in ours if word not in theirs)


def _also(words: Iterator[str]) -> str:
    text = " ".join(words)
    return f"also {text[:_LONGEST]}{'…' if len(text) > _LONGEST else ''}" if text else "no more"

"""Dockerfiles read: their stages and instructions. What this reader does not know is an error, not a guess."""

import json
import re
from dataclasses import dataclass, field, replace
from pathlib import Path

KNOWN = frozenset(
    "ARG CMD COPY ENTRYPOINT ENV EXPOSE FROM HEALTHCHECK LABEL RUN STOPSIGNAL USER WORKDIR".split()  # noqa: SIM905
)
_DIRECTIVE = re.compile(r"#\s*(syntax|escape|check)\s*=", re.IGNORECASE)
_PAIR = re.compile(r'([\w.]+)=("(?:[^"\\]|\\.)*"|\S*)\s*')
_VARIABLE = re.compile(r"\$(?:(\w+)|\{(\w+)\})")


@dataclass(frozen=True)
class Instruction:
    """One instruction: its name in capitals, its flags (`--from=build`), the rest as one line, and the line that it begins in."""

    name: str
    flags: dict[str, str]
    text: str
    line: int

    def words(self):
        """The words of the exec form; of any other text what stands between spaces."""
        if self.text.startswith("["):
            return json.loads(self.text)
        return self.text.split()

    def pairs(self):
        """NAME=VALUE, as ENV, ARG and LABEL have them; a name alone has an empty value."""
        if "=" not in self.text:
            return {self.text: ""}
        found = _PAIR.findall(self.text)
        if "".join(f"{name}={value}" for name, value in found) != re.sub(r'("[^"]*")|\s+', r"\1", self.text):
            raise ValueError(f"line {self.line}: this reader does not understand {self.text}")
        return {name: value.strip('"') for name, value in found}


@dataclass(frozen=True)
class Stage:
    """One stage: what it is made from, its name, its instructions behind FROM."""

    base: str
    name: str
    instructions: tuple[Instruction, ...] = ()

    def all(self, name):
        return [one for one in self.instructions if one.name == name]


@dataclass(frozen=True)
class Dockerfile:
    """A file: the arguments before the first stage with their defaults, and the stages."""

    path: Path
    arguments: dict[str, str]
    stages: tuple[Stage, ...] = field(default=())

    def stage(self, name):
        return next(stage for stage in self.stages if stage.name == name)

    def line_of(self, target=None):
        """The stages that the target (the last stage, unless it is said) stands on by FROM, the first one first."""
        found = [self.stages[-1] if target is None else self.stage(target)]
        while found[0].base in {stage.name for stage in self.stages}:
            found.insert(0, self.stage(found[0].base))
        return found

    def told(self, name, target=None):
        """The last instruction of this name that holds for the target."""
        return [one for stage in self.line_of(target) for one in stage.all(name)][-1]


def filled(text, values):
    """The text with `$NAME` and `${NAME}` replaced; any other form is an error."""
    filled_in = _VARIABLE.sub(lambda found: values[found[1] or found[2]], text)
    if "$" in filled_in:
        raise ValueError(f"this reader does not understand the variables of {text}")
    return filled_in


def read(path):
    """The file's stages.

    Raises:
        ValueError: an instruction, a flag or a form that is not known here.
    """
    arguments, stages = {}, []
    for one in _instructions(path.read_text()):
        if one.name == "FROM":
            words = filled(one.text, arguments).split()
            stages.append(Stage(words[0], words[2] if len(words) > 2 else f"stage-{len(stages)}"))
        elif stages:
            stages[-1] = replace(stages[-1], instructions=(*stages[-1].instructions, one))
        elif one.name == "ARG":
            arguments |= one.pairs()
        else:
            raise ValueError(f"{path}:{one.line}: {one.name} stands before FROM")
    return Dockerfile(path, arguments, tuple(stages))


def _instructions(text):
    if _DIRECTIVE.match(text) or "<<" in text:
        raise ValueError("parser directives and here-documents are not known here")
    line_number, lines = 0, text.splitlines()
    while line_number < len(lines):
        began, parts = line_number, []
        while line_number < len(lines):
            line = lines[line_number].strip()
            line_number += 1
            if line.startswith("#") or (not line and not parts):
                continue
            parts.append(line.removesuffix("\\").strip())
            if not line.endswith("\\"):
                break
        if parts:
            yield _instruction(" ".join(parts), began + 1)


def _instruction(text, line):
    name, _, rest = text.partition(" ")
    if name not in KNOWN:
        raise ValueError(f"line {line}: {name} is not known here")
    flags = {}
    while rest.startswith("--"):
        flag, _, rest = rest.partition(" ")
        key, _, value = flag.removeprefix("--").partition("=")
        flags[key] = value
    if unknown := set(flags) - {"from", "interval", "timeout", "start-period", "retries"}:
        raise ValueError(f"line {line}: --{', --'.join(sorted(unknown))} is not known here")
    return Instruction(name, flags, rest.strip(), line)


def ignored_by(path):
    """A function that says whether a path of the context, relative and with slashes, is kept from builds by a .dockerignore.

    Known: `*` for everything at the top, names at the top, `!` before them, and `**/NAME`; the last line that fits holds.
    """
    rules = [line.strip() for line in path.read_text().splitlines() if line.strip() and not line.startswith("#")]
    for rule in rules:
        if not re.fullmatch(r"\*|!?[\w.\-]+|\*\*/[\w.\-]+", rule):
            raise ValueError(f"{path}: {rule} is not known here")

    def ignored(name):
        parts, found = Path(name).parts, False
        for rule in rules:
            plain = rule.removeprefix("!")
            fits = plain == "*" or parts[0] == plain or (plain.startswith("**/") and plain[3:] in parts)
            found = not rule.startswith("!") if fits else found
        return found

    return ignored

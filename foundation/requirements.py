"""requirements.txt and conda's environment.yml, as text: the pins of an environment for another machine of the same kind."""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from foundation.pins import Pin

MADE_BY = "# Made by `stateserve environment`"


def requirements_txt(pins: Iterable[Pin], python: str, system: str) -> str:
    """One line per package, with its hash.

    pip takes hashes for all lines or for none: beside such with a hash, one without is a comment that says why; where none has
    one, all are lines without. What came from a directory is a comment always, since no index has it.
    """
    every = list(pins)
    hashed = any(pin.sha256 for pin in every)
    lines = [f"{MADE_BY}: Python {python} on {system}."]
    lines += [
        "# pip install --no-deps --require-hashes -r requirements.txt"
        if hashed
        else "# pip install --no-deps -r requirements.txt"
    ]
    left_out = [pin for pin in every if not pin.sha256 and (hashed or pin.path_only or pin.conda)]
    if left_out:
        lines += [f"# Not here, for want of a hash: {', '.join(pin.line for pin in left_out)}."]
    return "\n".join([*lines, *(_lines(pin, live=pin not in left_out) for pin in every)]) + "\n"


def _lines(pin: Pin, *, live: bool) -> str:
    if pin.sha256:
        return f"{pin.line} \\\n    --hash=sha256:{pin.sha256}"
    return f"{'' if live else '# '}{pin.line}  # {pin.why}"


def environment_yml(python: str, conda: Path, name: str = "stateserve") -> str:
    """The file of conda: this Python, and pip with requirements.txt beside it; in conda's own environment, its packages' builds.

    `conda` is the directory `conda-meta` of this environment, whether it is there or not.
    """
    records = _conda_records(conda)
    channels = sorted({channel for record in records if (channel := _channel(record))}) or ["conda-forge"]
    packages = sorted(f"{record['name']}={record['version']}={record['build']}" for record in records)
    lines = [
        f"{MADE_BY}: PIP_NO_DEPS=1 conda env create -f environment.yml",
        f"name: {name}",
        "channels:",
        *(f"  - {channel}" for channel in channels),
        "  - nodefaults",
        "dependencies:",
        *(f"  - {package}" for package in packages or [f"python={python}", "pip"]),
        "  - pip:",
        "      - -r requirements.txt",
    ]
    return "\n".join(lines) + "\n"


def _conda_records(folder: Path) -> list[Mapping[str, Any]]:
    records = []
    for path in sorted(folder.glob("*.json")):
        try:
            record = json.loads(path.read_text())
        except (OSError, ValueError):  # no record of a package
            continue
        if isinstance(record, dict) and {"name", "version", "build"} <= record.keys():
            records.append(record)
    return records


def _channel(record: Mapping[str, Any]) -> str | None:
    """The channel's name; without a token that its URL may hold, and none for a directory of this machine."""
    url = re.sub(r"/t/[^/]+", "", str(record.get("channel", "")))
    match = re.fullmatch(r"(?:https?://[^/]+/)?([\w.-]+(?:/[\w.-]+)*?)(?:/(?:noarch|[a-z]+-[\w]+))?/?", url)
    return match.group(1) if match else None

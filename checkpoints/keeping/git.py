"""Which code a training ran: the commit of its repository, and whether anything differed from it."""

import subprocess
import sys
from pathlib import Path
from typing import Any

LONGEST_S = 10.0
"""A repository that does not answer by then is not waited for: a training is not held up by its provenance."""


def git_state(directory: Path | None = None) -> dict[str, Any] | None:
    """`{"commit": 40 hex digits, "dirty": bool}` of a directory's repository; None where there is none, no git, or no commit.

    `dirty` is None where git did not say in time.

    Without a directory, that of the program's own file is asked, or where there is none (a notebook) the working directory.
    Files that git does not know count as dirty: the program may have used them.
    """
    where = directory or _program_directory()
    commit = _git(where, "rev-parse", "--verify", "HEAD")
    if commit is None:
        return None
    status = _git(where, "status", "--porcelain")
    return {"commit": commit.strip(), "dirty": bool(status) if status is not None else None}


def _program_directory() -> Path:
    path = getattr(sys.modules.get("__main__"), "__file__", None)
    return Path(path).absolute().parent if path else Path.cwd()


def _git(where: Path, *words: str) -> str | None:
    command = ["git", "--no-optional-locks", "-C", str(where), *words]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LONGEST_S, check=False, stdin=subprocess.DEVNULL)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired, UnicodeDecodeError):
        return None
    return done.stdout if done.returncode == 0 else None

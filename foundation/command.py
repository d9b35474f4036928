"""How every command ends: an error that a person can mend is printed as it is, and becomes the exit code."""

import contextlib
import json
import sys
from collections.abc import Iterator

from foundation.errors import StateserveError


@contextlib.contextmanager
def exit_codes(*, as_json: bool) -> Iterator[None]:
    """Ends the process with the error's exit code: its message on stderr, or with `as_json` one JSON object on stdout."""
    try:
        yield
    except StateserveError as error:
        if as_json:
            kind = type(error).__name__
            sys.stdout.write(json.dumps({"error": {"type": kind, "exit_code": error.exit_code, "message": str(error)}}) + "\n")
        else:
            sys.stderr.write(f"error: {error}\n")
        raise SystemExit(error.exit_code) from error

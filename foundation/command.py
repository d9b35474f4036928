"""How every command ends: an error that a person can mend is printed as it is, and becomes the exit code."""

import contextlib
import json
import sys
from collections.abc import Iterator
from typing import ClassVar

from foundation.errors import StateserveError

EXTRAS = {
    "export": frozenset({"onnx", "onnx_ir", "onnxscript", "torch", "yaml"}),
    "bench": frozenset({"matplotlib", "psutil", "pynvml", "uvicorn"}),
    "images": frozenset({"PIL"}),
    "text": frozenset({"tokenizers"}),
}
"""Extra -> what it installs and a host that only serves lacks."""


class MissingPackage(StateserveError):
    """The command needs packages of an extra that is not installed."""

    exit_code: ClassVar[int] = 2


@contextlib.contextmanager
def exit_codes(*, as_json: bool) -> Iterator[None]:
    """Ends the process with the error's exit code: its message on stderr, or with `as_json` one JSON object on stdout."""
    try:
        try:
            yield
        except ModuleNotFoundError as cause:
            extra = next((extra for extra, packages in EXTRAS.items() if cause.name in packages), None)
            if extra is None:
                raise
            raise MissingPackage(
                f"this command needs {cause.name}, which is not installed: pip install 'stateserve[cpu,{extra}]' "
                "(a host that only serves does without)"
            ) from cause
    except StateserveError as error:
        if as_json:
            kind = type(error).__name__
            sys.stdout.write(json.dumps({"error": {"type": kind, "exit_code": error.exit_code, "message": str(error)}}) + "\n")
        else:
            sys.stderr.write(f"error: {error}\n")
        raise SystemExit(error.exit_code) from error

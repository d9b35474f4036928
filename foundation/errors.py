"""The root of the errors.

Every error that Stateserve raises on purpose derives from `StateserveError`; each room keeps its own leaves in its `errors.py`.
A message says what failed, which value, what was expected and what to do, so that it can be shown to a person as it is.
"""

from typing import ClassVar


class StateserveError(Exception):
    """Something that a person can mend; the message says how. `exit_code` is what a command ends with."""

    exit_code: ClassVar[int] = 1

"""What one hostile value is: a function that makes its bytes, the statuses that may answer it, and words of the message."""

from collections.abc import Callable
from dataclasses import dataclass

TAKEN = frozenset({200})
REFUSED = frozenset({400})
TOO_LARGE = frozenset({413})
EITHER = REFUSED | TAKEN


@dataclass(frozen=True, slots=True)
class Hostile:
    """`make` gives the bytes, which are large only where that is the hostility. `why` is what it would do to a careless server.

    `statuses` may answer it; `says` is a part of the message where it is refused, empty for any.
    """

    why: str
    make: Callable[[], bytes]
    statuses: frozenset[int]
    says: str = ""

"""The one error of this folder. An `Observer` raises none: it makes notes of them."""

from bench.errors import BenchError


class NotSeen(BenchError):
    """Something of the server cannot be observed. The message says why, as the second half of a sentence."""

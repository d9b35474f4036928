"""Needs a package that only its requirements.txt brings."""

import tiny_greeting  # pyright: ignore[reportMissingImports] - a wheel that the comparison makes


class Needs:
    """Greets."""

    def initialize(self, _context):
        """Nothing is to be loaded."""

    def handle(self, data, _context):
        """What the package says."""
        return [tiny_greeting.HELLO for _ in data]

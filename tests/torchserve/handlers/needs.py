"""Needs a package that only its requirements.txt brings."""

import tiny_greeting


class Needs:
    """Greets."""

    def initialize(self, context):
        """Nothing is to be loaded."""

    def handle(self, data, context):
        """What the package says."""
        return [tiny_greeting.HELLO for _ in data]

"""A class that cannot be initialized."""


class InitError:
    """Fails before it serves."""

    def initialize(self, _context):
        """Fails."""
        raise RuntimeError("no weights here")

    def handle(self, data, _context):
        """Never called."""
        return ["?" for _ in data]

"""A module whose load needs more memory than there is."""


class OutOfMemory:
    """Fails as torch does."""

    def initialize(self, _context):
        """Fails."""
        raise MemoryError("no more")

    def handle(self, data, _context):
        """Never called."""
        return ["?" for _ in data]

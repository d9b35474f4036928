"""Two classes, where one must be the handler."""


class One:
    """A handler."""

    def initialize(self, _context):
        """Nothing is to be loaded."""

    def handle(self, data, _context):
        """Never called."""
        return ["one" for _ in data]


class Two(One):
    """Another."""

"""A class that cannot be initialized."""


class InitError:
    """Fails before it serves."""

    def initialize(self, context):
        """Fails."""
        raise RuntimeError("no weights here")

    def handle(self, data, context):
        """Never called."""
        return ["?" for _ in data]

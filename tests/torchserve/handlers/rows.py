"""For the envelopes: what the handler gets is what they made of the request."""


class Rows:
    """Answers each row with its type, or by the sum of its numbers."""

    def initialize(self, _context):
        """Nothing is to be loaded."""

    def handle(self, data, _context):
        """One answer per row."""
        return [self.answer(row) for row in data]

    def answer(self, row):
        """Bytes by their length, lists by their sum, tensors of kservev2 by their data."""
        if isinstance(row, (bytes, bytearray, str)):
            return len(row)
        if isinstance(row, dict) and "data" in row:
            return row["data"]
        if isinstance(row, dict):
            return {name: type(value).__name__ for name, value in row.items()}
        return sum(row) if isinstance(row, list) else row

"""How many requests came together."""


class Batches:
    """Answers each request with the size of its batch."""

    def initialize(self, _context):
        """Nothing is to be loaded."""

    def handle(self, data, context):
        """The same answer for all; one request may make the batch fail, or set its own status."""
        wishes = [row.get("body") or {} for row in data]
        if any(wish == {"fail": True} for wish in wishes):
            raise ValueError("one fails for all")
        for number, wish in enumerate(wishes):
            if "status" in wish:
                context.set_response_status(wish["status"], "", number)
        return [{"together": len(data), "wish": wish} for wish in wishes]

"""A class whose metrics are its own."""

from ts.metrics.metric_type_enum import MetricTypes


class Measured:
    """Counts, measures and gives percentages."""

    def initialize(self, _context):
        """Nothing is to be loaded."""

    def handle(self, data, context):
        """Writes one metric of each kind for each call."""
        metrics = context.metrics
        metrics.add_counter("CallsSeen", 1)
        metrics.add_time("WorkTime", 12.5)
        metrics.add_size("InputSize", 2.0, unit="MB")
        metrics.add_percent("Share", 25.0)
        metrics.add_metric("Anything", 7.0, unit="count", metric_type=MetricTypes.GAUGE)
        return ["measured" for _ in data]

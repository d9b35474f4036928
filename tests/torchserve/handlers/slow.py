"""Slow to load, or to answer: model-config.yaml says how long."""

import time


class Slow:
    """Waits."""

    def initialize(self, context):
        """Takes the configured time."""
        time.sleep(context.model_yaml_config.get("handler", {}).get("load_s", 0))

    def handle(self, data, _context):
        """Takes as long as the request says."""
        time.sleep(max(float((row.get("body") or {}).get("seconds", 0)) for row in data))
        return ["awake" for _ in data]

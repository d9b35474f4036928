"""Nothing is lost under load: one file a scenario, and what they share. The command: `python -m bench.soak`."""

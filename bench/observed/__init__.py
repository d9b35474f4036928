"""What is seen of a server while a load runs: its processes, its own histograms, the machine, the GPUs."""

from bench.observed.observer import Observation, Observer

__all__ = ["Observation", "Observer"]

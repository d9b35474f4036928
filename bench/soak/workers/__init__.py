"""TorchServe's ways with real workers, which are killed under load: one file a scenario, and what they share."""

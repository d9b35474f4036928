"""TorchServe's metrics: counted, sampled, written in its form."""

"""TorchServe's ways: its three connectors, its config.properties, and its users' .mar files, run by its own Python worker.

docs/adr/0011 says why; the native request path knows nothing of it.
"""

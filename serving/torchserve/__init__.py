"""TorchServe's ways: its three connectors, its config.properties, and its users' .mar files, run by its own Python worker.

Everything here can be taken away without the rest of the server noticing (docs/adr/0011).
"""

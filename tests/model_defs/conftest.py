"""What the tests of this room share: one thread, and a registry that each test finds as the package left it."""

import sys

import pytest
import torch

from model_defs import plugins, registered, registry


@pytest.fixture(autouse=True, scope="package")
def _one_thread():
    """These models are small: on a busy machine torch's threads cost more in waiting for each other than they save."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def _fresh_registry():
    """What a test registers, loads or imports as a plugin is gone after it."""
    definitions, loaded, modules = registered(), set(plugins._loaded), set(sys.modules)
    yield
    registry.restore(definitions)
    plugins._loaded.intersection_update(loaded)
    for name in set(sys.modules) - modules:
        if name.startswith(("stateserve_plugin", "nets_")):
            del sys.modules[name]

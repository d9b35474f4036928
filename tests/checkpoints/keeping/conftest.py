"""What the tests of keeping share."""

import pytest
import torch


@pytest.fixture
def one_thread():
    """Two threads are slower than one with weights as small as these."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)

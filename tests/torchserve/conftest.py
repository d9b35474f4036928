"""The archives of the comparison, packed once."""

import pytest

from tests.torchserve.archives import pack_all


@pytest.fixture(scope="session")
def store(tmp_path_factory):
    """The folder of all archives."""
    return pack_all(tmp_path_factory.mktemp("archives"))

"""The scan of .pt2 archives takes what our own export writes."""

import io
import zipfile

import pytest

from foundation.pt2 import pt2_pickles

SAMPLES = "archive/data/sample_inputs/model.pt"


def archive(data, compression=zipfile.ZIP_STORED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as file:
        file.writestr(SAMPLES, data)
    return buffer


def test_a_program_without_example_inputs():
    """Example inputs of no bytes hold no pickle; a file object is read as well as a path."""
    assert pt2_pickles(archive(b"")) == ()


@pytest.mark.parametrize(("data", "compression"), [(b"x", zipfile.ZIP_STORED), (b"x", zipfile.ZIP_DEFLATED)])
def test_example_inputs_that_cannot_be_judged(data, compression):
    """Any byte there that the scan cannot read counts as found."""
    assert pt2_pickles(archive(data, compression)) == (SAMPLES,)


def test_example_inputs_that_only_claim_to_be_empty():
    """A size of 0 in the directory does not hide bytes that follow it."""
    data = bytearray(archive(b"cos\nsystem\n.").getvalue())
    entry = data.rindex(b"PK\x01\x02")
    data[entry + 24 : entry + 28] = bytes(4)  # the uncompressed size

    assert pt2_pickles(io.BytesIO(bytes(data))) == (SAMPLES,)


def test_no_archive():
    """What is no zip archive is an error of its own."""
    with pytest.raises(zipfile.BadZipFile):
        pt2_pickles(io.BytesIO(b"not a zip"))

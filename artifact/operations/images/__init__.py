"""Operations on pictures: a file of JPEG, PNG or WebP -> a row of a tensor. docs/operations.md says what each computes."""

from collections.abc import Mapping

from artifact.operations.images.crop import CenterCrop, Crop
from artifact.operations.images.decode import Decode
from artifact.operations.images.layout import Layout
from artifact.operations.images.levels import Normalize, ToFloat
from artifact.operations.images.resize import Resize
from artifact.operations.kinds import InputOperation

OPERATIONS: Mapping[str, type[InputOperation]] = {
    "decode": Decode,
    "resize": Resize,
    "center_crop": CenterCrop,
    "crop": Crop,
    "to_float": ToFloat,
    "normalize": Normalize,
    "layout": Layout,
}
"""Every operation on pictures, by the name that the YAML gives it."""

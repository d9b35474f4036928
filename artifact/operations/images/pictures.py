"""What the operations on pictures ask of the operation before them."""

from artifact.operations.kinds import Image, Kind


def require_picture(given: Kind) -> Image:
    """The given kind, where it is a picture of uint8.

    Raises:
        ValueError: it is none.
    """
    picture = _required(given, after="decode")
    if picture.dtype != "uint8":
        raise ValueError(f"it takes levels of uint8, not {picture.dtype}; put it before to_float")
    return picture


def require_floats(given: Kind) -> Image:
    """The given kind, where it is a picture of float32.

    Raises:
        ValueError: it is none.
    """
    picture = _required(given, after="to_float")
    if picture.dtype != "float32":
        raise ValueError(f"it takes numbers of float32, not levels of {picture.dtype}; put to_float before it")
    return picture


def _required(given: Kind, after: str) -> Image:
    if not isinstance(given, Image):
        raise ValueError(f"it takes a picture, not {given}; it stands after {after} and before layout")  # noqa: TRY004 - the interface
    return given

"""What the operations on pictures ask of the operation before them."""

from artifact.operations.kinds import Image, Kind


def require_picture(given: Kind) -> Image:
    """The given kind, where it is a picture of uint8.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(given, Image):
        raise ValueError(f"it takes a picture, not {given}; it stands after decode and before layout")  # noqa: TRY004 - the interface
    if given.dtype != "uint8":
        raise ValueError(f"it takes levels of uint8, not {given.dtype}; put it before to_float")
    return given


def require_floats(given: Kind) -> Image:
    """The given kind, where it is a picture of float32.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(given, Image):
        raise ValueError(f"it takes a picture, not {given}; it stands after to_float and before layout")  # noqa: TRY004 - the interface
    if given.dtype != "float32":
        raise ValueError(f"it takes numbers of float32, not levels of {given.dtype}; put to_float before it")
    return given

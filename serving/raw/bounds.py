"""What the rows of one request may take together, besides what each may hold: a small body must not become a large task."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from artifact.operations import RawSpec
from artifact.operations.errors import BadRaw, TooLarge
from artifact.operations.images.decode import read_header
from artifact.raw_limits import Budget
from artifact.signature import DTYPES, Signature
from serving.protocols.asked import Limits
from serving.raw.bodies import RawRow, require_few

PICTURES = 8
"""So many pictures of `max_image_pixels` may be in one request, or more that have no more pixels together."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """The bounds of one version's requests; `least_bytes` are those of a row's tensors, if all its sizes are the smallest."""

    limits: Limits
    images: tuple[str, ...]
    least_bytes: int

    @classmethod
    def of(cls, signature: Signature, specs: Sequence[RawSpec], limits: Limits) -> "Bounds":
        """The bounds for what operations make of raw inputs."""
        made = {name for spec in specs for name in spec.makes}
        batch = signature.batch_dim
        sizes = {name: 1 if name == batch else dim.min for name, dim in signature.dims.items()}
        least = sum(
            math.prod(spec.concrete(sizes)) * DTYPES[spec.dtype].itemsize for spec in signature.inputs if spec.name in made
        )
        return cls(limits, tuple(spec.name for spec in specs if spec.kind == "image"), least)

    @property
    def pixels(self) -> Budget:
        """The pixels that the pictures of one request may be resized to."""

        def used_up(most: int) -> TooLarge:
            return TooLarge(f"the pictures are resized to more than {most} pixels together: send fewer rows")

        return Budget(PICTURES * self.limits.raw.image_pixels, used_up)

    def require(self, rows: Sequence[RawRow]) -> None:
        """Refuses rows that are too many, or too large together, before anything is made of them. URLs are fetched by now.

        Raises:
            BadRequest: there are more rows than the model's queue holds.
            TooLarge: their tensors, or their pictures, would be too large.
            BadImage: one of several pictures is none, with its place.
        """
        require_few(len(rows), self.limits.max_rows)
        self.require_small(len(rows), self.least_bytes)
        if len(rows) > 1:
            self._require_few_pixels(rows)

    def require_small(self, count: int, row_bytes: int) -> None:
        """Refuses several rows, of whose tensors each has so many bytes, where all have more than a body may. Raises TooLarge."""
        if count > 1 and count * row_bytes > self.limits.max_body_bytes:
            raise TooLarge(
                f"{count} rows make tensors of {count * row_bytes} bytes; one request may make {self.limits.max_body_bytes} "
                "(setting max_body_bytes): send fewer rows"
            )

    def _require_few_pixels(self, rows: Sequence[RawRow]) -> None:
        most = PICTURES * self.limits.raw.image_pixels
        if sum(self._pixels(index, row) for index, row in enumerate(rows)) > most:
            raise TooLarge(
                f"the pictures have more than {most} pixels together ({PICTURES} times the setting max_image_pixels): "
                "send fewer rows"
            )

    def _pixels(self, index: int, row: RawRow) -> int:
        found = 0
        for name in self.images:
            value = row[name]
            if isinstance(value, bytes):
                try:
                    header = read_header(value)
                except BadRaw as cause:
                    raise of_row(cause, index) from cause
                found += header.width * header.height
        return found


def of_row(error: BadRaw, index: int) -> BadRaw:
    """The same error, which tells the row."""
    return type(error)(f"row {index}: {error}")

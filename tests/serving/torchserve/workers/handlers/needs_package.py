"""It needs a package of its own."""

import sys

import told_package  # pyright: ignore[reportMissingImports] - the test installs it


def handle(data, context):  # noqa: ARG001 - TorchServe's signature
    if data is None:
        return None
    return [{"value": told_package.VALUE, "file": told_package.__file__, "python": sys.executable} for _ in data]

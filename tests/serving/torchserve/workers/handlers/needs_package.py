"""It needs a package of its own."""

import sys

import told_package


def handle(data, context):
    if data is None:
        return None
    return [{"value": told_package.VALUE, "file": told_package.__file__, "python": sys.executable} for _ in data]

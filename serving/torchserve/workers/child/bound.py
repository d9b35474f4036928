"""Becomes a program that ends with the server. `PARENT_PID`, then the program and its arguments."""

import os
import runpy
import sys
from pathlib import Path

if __name__ == "__main__":
    runpy.run_path(str(Path(__file__).with_name("__main__.py")))["end_with"](int(sys.argv[1]))
    os.execv(sys.argv[2], sys.argv[2:])  # noqa: S606 - no shell is wanted

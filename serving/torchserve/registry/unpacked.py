"""Where archives are unpacked: a folder of this process in the system's place for temporary files, gone with it."""

import contextlib
import fcntl
import os
import secrets
import shutil
import tempfile
from pathlib import Path

PREFIX = "stateserve-models-"


class UnpackedFolder:
    """A new folder for this user alone, held locked while it is used, so that no other server takes it for abandoned."""

    def __init__(self, above: Path | None = None) -> None:
        above = above or Path(tempfile.gettempdir())
        _remove_abandoned(above)
        self.path, self._descriptor = _locked(above)

    def remove(self) -> None:
        """Removes all that is in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._descriptor)


def _locked(above: Path) -> tuple[Path, int]:
    while True:
        path = above / f"{PREFIX}{secrets.token_hex(8)}"
        path.mkdir(mode=0o700)
        with contextlib.suppress(FileNotFoundError):  # another server removed it before it was locked
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
            with contextlib.suppress(OSError):  # some file systems have no locks
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            if path.exists():
                return path, descriptor
            os.close(descriptor)


def _remove_abandoned(above: Path) -> None:
    """Removes what servers of this user left that were killed: nobody holds its lock."""
    for path in above.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                if os.fstat(descriptor).st_uid == os.getuid():
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(descriptor)

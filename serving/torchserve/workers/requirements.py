"""A model's own Python packages: what its archive's requirements file names, installed for it alone, as TorchServe does."""

import asyncio
import logging
import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path

from serving.torchserve.archives.mar import Mar
from serving.torchserve.errors import ModelException, ServiceUnavailableException
from serving.torchserve.workers.host import CHILD, WorkerHost, torchserve_folder
from serving.torchserve.workers.process import spawn

log = logging.getLogger("stateserve.model")

_BOUND = CHILD.with_name("bound.py")
_MOST_S = 600.0
"""How long pip, or the making of an environment, may take."""
_SHOWN_BYTES = 4000
_QUIET = {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1"}


async def install_requirements(mar: Mar, name: str, host: WorkerHost, ended: "asyncio.Future[None]", *, use_venv: bool) -> str:
    """Installs what the archive asks for, if that is allowed; gives the Python that its workers are started with.

    With `use_venv` that is one of an environment of the model's own, in its folder, which sees this Python's packages behind its
    own; else packages go into the model's folder, where its workers look first. It is cut off when `ended` is done.

    Raises:
        ModelException: pip, or the making of the environment, failed or took too long; the log has what they printed.
        ServiceUnavailableException: it was cut off.
    """
    if not host.install_requirements:
        return host.python
    facts = {"model": name, "version": mar.version}

    async def run(*command: str) -> None:
        bound = (host.python, "-I", str(_BOUND), str(os.getpid()), *command)
        why = await _why_not_done(bound, mar.directory, {**host.environment(mar), **_QUIET}, ended)
        if why is not None:
            failed = f"Custom pip package installation failed for model {name}"
            log.error("%s: %s", failed, why, extra=facts)
            raise ModelException(failed)

    python = host.python
    if use_venv:
        environment = mar.directory / "venv"
        script = torchserve_folder() / "utils" / "setup_model_venv.py"
        await run(python, str(script), str(environment))
        python = str(environment / "bin" / "python")
    if mar.requirements is not None:
        where = ("--upgrade-strategy", "only-if-needed") if use_venv else ("-t", str(mar.directory))
        await run(python, "-m", "pip", "install", "-U", *where, "-r", str(mar.requirements))
        log.info("installed the requirements of model %s", name, extra=facts)
    return python


async def _why_not_done(
    command: Sequence[str], directory: Path, variables: Mapping[str, str], ended: "asyncio.Future[None]"
) -> str | None:
    """Runs a program, and what that starts, in a session of its own. Why it failed, with what it printed; None if it did not.

    Raises:
        ServiceUnavailableException: it was cut off.
    """
    printed = _Printed()
    try:
        process = await spawn(command, variables, directory, printed)
    except OSError as cause:
        return str(cause)
    try:
        await asyncio.wait({process.exited, ended}, timeout=_MOST_S, return_when=asyncio.FIRST_COMPLETED)
    finally:
        code = process.code
        process.signal(signal.SIGKILL)
        await process.gone()
    if code == 0:
        return None
    if code is None and ended.done():
        raise ServiceUnavailableException("The server is about to end.")
    how = f"it took longer than {_MOST_S:g} s" if code is None else f"it ended with code {code}"
    return f"{how}: {printed.text}"


class _Printed:
    """The end of what a program printed."""

    def __init__(self) -> None:
        self._end = b""

    def feed(self, data: bytes) -> None:
        self._end = (self._end + data)[-_SHOWN_BYTES:]

    def flush(self) -> None:
        """Nothing is held back."""

    @property
    def text(self) -> str:
        return self._end.decode("utf-8", "replace").strip()

"""A model's own Python packages: what its archive's requirements file names, installed for it alone, as TorchServe does."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from serving.torchserve.archives.mar import Mar
from serving.torchserve.errors import ModelException
from serving.torchserve.workers.host import WorkerHost, torchserve_folder

log = logging.getLogger("stateserve.model")

_SHOWN_CHARACTERS = 4000
_QUIET = {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1"}


async def install_requirements(mar: Mar, name: str, host: WorkerHost, *, use_venv: bool) -> str:
    """Installs what the archive asks for, if that is allowed; gives the Python that its workers are started with.

    With `use_venv` that is one of an environment of the model's own, in its folder, which sees this Python's packages behind its
    own; else packages go into the model's folder, where its workers look first.

    Raises:
        ModelException: pip, or the making of the environment, failed; the log has what they printed.
    """
    if not host.install_requirements:
        return host.python
    variables = {**host.environment(mar), **_QUIET}
    python = host.python
    if use_venv:
        environment = mar.directory / "venv"
        script = torchserve_folder() / "utils" / "setup_model_venv.py"
        await _run((python, str(script), str(environment)), mar, name, variables)
        python = str(environment / "bin" / "python")
    if mar.requirements is not None:
        where = ("--upgrade-strategy", "only-if-needed") if use_venv else ("-t", str(mar.directory))
        await _run((python, "-m", "pip", "install", "-U", *where, "-r", str(mar.requirements)), mar, name, variables)
        log.info("installed the requirements of model %s", name, extra={"model": name, "version": mar.version})
    return python


async def _run(command: Sequence[str], mar: Mar, name: str, variables: Mapping[str, str]) -> None:
    failed = f"Custom pip package installation failed for model {name}"
    facts = {"model": name, "version": mar.version}
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            cwd=Path(mar.directory),
            env=dict(variables),
        )
    except OSError as cause:
        raise ModelException(failed) from cause
    try:
        printed, _ = await process.communicate()
    except BaseException:
        if process.returncode is None:
            process.kill()
            await process.wait()
        raise
    if process.returncode != 0:
        log.error("%s: %s", failed, printed.decode("utf-8", "replace").strip()[-_SHOWN_CHARACTERS:], extra=facts)
        raise ModelException(failed)

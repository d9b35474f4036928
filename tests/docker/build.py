"""A Dockerfile's steps, executed in an empty environment without Docker.

What a build does is done for real: each stage has a folder as its root, in which there is nothing but a copy of this Python (its
standard library and pip, as in the official image), a HOME without anything, and none of this process's variables but those by
which pip finds its index. COPY copies what .dockerignore lets through; RUN runs `/bin/sh -c` in WORKDIR. A stage's root is put
aside when it ends, and the next one finds it empty: what is not copied from there is not there.

What differs from Docker, since no root of the file system is changed:
- absolute paths below `ROOTED` are moved below the folder, in commands and in values of ENV; all others are the machine's own.
- the machine's own programs and libraries are there, so it is not seen that Debian's slim image lacks one.
- apt-get is simulated, on a machine that has nothing installed: it says that the packages are there and fit together.
"""

import contextlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from tests.docker.dockerfile import Dockerfile, filled, ignored_by

PROJECT = Path(__file__).parents[2]
ROOTED = ("/opt", "/src", "/models", "/model_store", "/work", "/etc/stateserve", "/var/lib/torchserve")
"""Every folder that our Dockerfiles make or fill; of Python's own, /usr/local stands for it."""

STEP_S = 400
_PASSED_ON = re.compile(r"PIP_.*|.*_proxy|.*_PROXY|SSL_CERT_FILE|REQUESTS_CA_BUNDLE")
_ROOTED = re.compile(rf"(?<![\w./$}}-])({'|'.join(map(re.escape, ROOTED))})(?=[/\s\"':;]|$)")
_APT = re.compile(r"apt-get install(?: --?[\w-]+)* ([\w\s.+-]+?)\s*(?:&&|$)")


@dataclass
class Build:
    """Where a stage stands: its root, what is set, and the packages of the system that it asked for."""

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)
    arguments: dict[str, str] = field(default_factory=dict)
    directory: str = "/"
    packages: list[str] = field(default_factory=list)
    change: Callable[[str], str] = str

    @property
    def root(self):
        return self.folder / "root"

    def stage_root(self, name):
        return self.folder / "stages" / name

    def rooted(self, text):
        """A text whose paths lie below the present root."""
        return _ROOTED.sub(lambda found: f"{self.root}{found[1]}", text)

    def place(self, path=""):
        """Where a path of the image, or one relative to its WORKDIR, lies here."""
        return self.root / os.path.normpath(Path("/", self.directory, path)).lstrip("/")

    def variables(self):
        """Those of a process in the image: the stage's, and what Docker and the base image set."""
        temporary = str(self.folder / "tmp")  # for /tmp; TEMP is how TorchServe's Java is told
        own = {"HOME": str(self.folder / "home"), "LANG": "C.UTF-8", "TMPDIR": temporary, "TEMP": temporary}
        return own | {name: self.rooted(value) for name, value in self.environment.items()}


class Builder:
    """A Dockerfile's stages, executed in a folder. A stage that was executed is kept, and not executed again."""

    def __init__(self, dockerfile: Dockerfile, folder: Path, change: Callable[[str], str] = str, **arguments: str) -> None:
        for name in ("home", "tmp", "stages"):
            (folder / name).mkdir(parents=True)
        (folder / "tmp").chmod(0o1777)
        self._file, self._change, self._arguments = dockerfile, change, arguments
        python = _python_alone(folder / "python")
        # The library path is for a Python whose own library is elsewhere, where the image's user may not look.
        self._base = Build(folder, {"PATH": f"{python}/bin:/usr/bin:/bin", "LD_LIBRARY_PATH": f"{python}/lib"})
        self._ended: dict[str, Build] = {}
        self._present: str | None = None

    def image(self, target: str | None = None) -> Build:
        """Executes the stages that the target (the last, unless it is said) needs; its root is the folder's, until the next."""
        line = self._file.line_of(target)
        copied = {one.flags["from"] for stage in line for one in stage.all("COPY") if "from" in one.flags}
        needed = [stage for stage in self._file.stages if stage in line or stage.name in copied]
        for stage in needed:
            if stage.name not in self._ended:
                self._put_aside()
                self._ended[stage.name] = self._executed(stage)
        return self._ended[needed[-1].name]

    def _put_aside(self):
        if self._present is not None:
            state = self._ended[self._present]
            state.root.rename(state.stage_root(self._present))
            self._present = None

    def _executed(self, stage):
        before = self._ended.get(stage.base, self._base)
        state = replace(
            before,
            environment=dict(before.environment),
            packages=list(before.packages),
            arguments=dict(self._arguments),
            change=self._change,
        )
        if stage.base in self._ended:
            subprocess.run(["cp", "--archive", "--link", state.stage_root(stage.base), state.root], check=True)  # owners, too
        else:
            state.root.mkdir()
        self._present = stage.name
        for instruction in stage.instructions:
            _STEPS[instruction.name](state, instruction)
        return state


def _python_alone(to):
    """A copy of this Python in `to`, with pip, and without what else is installed in it."""
    home = Path(sys.base_prefix)
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(home)}))
    library = home / "lib" / version

    def left_out(folder, names):
        if Path(folder) == library:
            return {"site-packages", "test", "__pycache__", "idlelib", "turtledemo"}
        return {"__pycache__"} & set(names)

    shutil.copytree(library, to / "lib" / version, symlinks=True, ignore=left_out)
    (to / "lib" / version / "site-packages").mkdir()
    for found in packages.glob("pip*"):
        shutil.copytree(found, to / "lib" / version / "site-packages" / found.name)
    for found in (home / "lib").glob("libpython*"):
        shutil.copy2(found, to / "lib")
    (to / "bin").mkdir()
    shutil.copy2(home / "bin" / version, to / "bin")
    for name in ("python", "python3"):
        (to / "bin" / name).symlink_to(version)
    return to


def _argument(state, one):
    for name, default in one.pairs().items():
        state.arguments.setdefault(name, default)


def _environment(state, one):
    state.environment |= {name: filled(value, state.arguments | state.environment) for name, value in one.pairs().items()}


def _directory(state, one):
    state.directory = str(Path("/", state.directory, one.text))
    state.place().mkdir(parents=True, exist_ok=True)


def _copy(state, one):
    *sources, target = one.words()
    where = state.place(target)
    where.parent.mkdir(parents=True, exist_ok=True)
    for source in sources:
        if "from" in one.flags:
            origin = state.stage_root(one.flags["from"]) / source.lstrip("/")
            shutil.copytree(origin, where, symlinks=True, copy_function=os.link)
        elif source == ".":
            copy_context(where)
        else:
            into = where / Path(source).name if target.endswith("/") else where
            into.parent.mkdir(parents=True, exist_ok=True)
            into.unlink(missing_ok=True)  # it may be a link to an earlier stage's file
            shutil.copyfile(PROJECT / source, into)


def copy_context(to):
    """Copies what a build sees of the project."""
    ignored = ignored_by(PROJECT / ".dockerignore")

    def left_out(folder, names):
        return {name for name in names if ignored((Path(folder) / name).relative_to(PROJECT).as_posix())}

    shutil.copytree(PROJECT, to, ignore=left_out, dirs_exist_ok=True)


def _run(state, one):
    if "apt-get" in one.text:
        state.packages += _APT.findall(one.text)[0].split()
        return
    command = state.rooted(state.change(one.text))
    index = {name: value for name, value in os.environ.items() if _PASSED_ON.fullmatch(name)}
    ended = subprocess.run(
        ["/bin/sh", "-ec", command],
        cwd=state.place(),
        env=state.variables() | state.arguments | index,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=STEP_S,
        check=False,
    )
    if ended.returncode:
        raise AssertionError(f"line {one.line} ended with {ended.returncode}: {command}\n{ended.stdout[-4000:]}")


def _nothing(_state, _one):
    """What is said of the image, and changes nothing in it."""


_STEPS = {
    "ARG": _argument,
    "ENV": _environment,
    "WORKDIR": _directory,
    "COPY": _copy,
    "RUN": _run,
    **dict.fromkeys(("CMD", "ENTRYPOINT", "EXPOSE", "HEALTHCHECK", "LABEL", "STOPSIGNAL", "USER"), _nothing),
}


def command_of(state, instruction):
    """An instruction's exec form with paths of this machine: its program, too, which PATH finds."""
    program, *words = instruction.words()
    return [str(shutil.which(program, path=state.variables()["PATH"])), *map(state.rooted, words)]


def user_of(dockerfile, target=None):
    """The numeric user that the image runs as, where this process may become it; else nothing."""
    if os.geteuid() != 0:
        return {}
    user, group = map(int, dockerfile.told("USER", target).text.split(":"))
    return {"user": user, "group": group, "extra_groups": []}


def installed_mb(state):
    """What the image's environment takes: the bytes of /opt/stateserve in 10^6, links as links."""
    found = (Path(folder, name).lstat() for folder, _, names in os.walk(state.root / "opt") for name in names)
    return sum(one.st_size for one in found) / 1e6


@contextlib.contextmanager
def started(words, log, **options):
    """The words as a process in the image's environment, with its log; it is killed with its children at the block's end."""
    with log.open("w") as output:
        process = subprocess.Popen(
            words, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True, **options
        )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, 9)
        process.wait(15)

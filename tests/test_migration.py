"""docs/migrate-from-torchserve.md and docs/torchserve.md are true: their commands are run, and print what stands there."""

import contextlib
import json
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from bench.processes import server_environment
from tests.torchserve.differences import ADDED_HEADERS, ADDED_METRICS, DIFFERENCES, NOT_COMPARED

PROJECT = Path(__file__).parents[1]
MIGRATION, REFERENCE = (PROJECT / "docs" / name for name in ("migrate-from-torchserve.md", "torchserve.md"))
BLOCK = re.compile(r"(<!-- java -->\n)?```console\n(.*?)```", re.DOTALL)
PORTS = ("8080", "8081", "8082", "7070", "7071")
NOT_GIVEN = (20000, 32000)
ADDRESSES = """\
inference_address=http://127.0.0.1:8080
management_address=http://127.0.0.1:8081
metrics_address=http://127.0.0.1:8082
"""
HAS_JAVA = shutil.which("java") is not None
NOT_RUN = ("pip install",)
DEADLINE_S = 120
SEPARATOR = "\036"
HANDLER = "def handle(data, context):\n    return data and ['here'] * len(data)\n"


@dataclass(frozen=True)
class Shown:
    """A command of a document, and what stands below it: what it prints, `…` standing for anything in a line."""

    command: str
    output: str

    def is_like(self, printed):
        pattern = re.escape(self.output.strip("\n")).replace("…", "[^\n]*")
        return re.fullmatch(pattern, printed.strip("\n")) is not None


def shown(document):
    """A document's commands, in order; without those that need Java, where there is none."""
    blocks = [block for java, block in BLOCK.findall(document.read_text(encoding="utf-8")) if HAS_JAVA or not java]
    found = [part for block in blocks for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]]
    commands = [Shown(*part.partition("\n")[::2]) for part in found]
    return [one for one in commands if not one.command.startswith(NOT_RUN)]


@pytest.fixture
def ports():
    """Ports for those that the documents name: free ones that the system gives to nobody else, though they are used late."""
    found = set()
    while len(found) < len(PORTS):
        port = random.randrange(*NOT_GIVEN)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            found.add(str(port))
    return dict(zip(PORTS, found, strict=True))


@pytest.fixture
def folder(tmp_path, ports):
    """Where a document begins: the project's folder as its user has it, the examples and a model store of the user's own."""
    project = tmp_path / "project"
    for name in ("digits", "torchserve"):
        shutil.copytree(
            PROJECT / "examples" / name, project / "examples" / name, ignore=shutil.ignore_patterns("best.pth", "__pycache__")
        )
    config = project / "examples" / "torchserve" / "config.properties"
    config.write_text(with_ports(config.read_text(), ports))
    (project / "config.properties").write_text(with_ports(ADDRESSES, ports))
    (project / "model_store").mkdir()
    manifest = {"model": {"modelName": "digits", "handler": "handler.py", "modelVersion": "1.0"}}
    with zipfile.ZipFile(project / "model_store" / "digits.mar", "w") as archive:
        archive.writestr("MAR-INF/MANIFEST.json", json.dumps(manifest))
        archive.writestr("handler.py", HANDLER)
    return project


@pytest.fixture
def environment(tmp_path):
    """Our commands first, temporary files in the folder, one thread, and nothing of TorchServe's or ours that is set here."""
    (tmp_path / "tmp").mkdir()
    ours = ("TS_", "LOG_LOCATION", "METRICS_", "PYTHONPATH")
    kept = {name: value for name, value in server_environment().items() if not name.startswith(ours)}
    temporary = {name: str(tmp_path / "tmp") for name in ("TMPDIR", "TEMP")}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**kept, **temporary, "OMP_NUM_THREADS": "1", "PATH": path}


@pytest.mark.torchserve
@pytest.mark.parametrize("document", [MIGRATION, REFERENCE], ids=lambda document: document.stem)
def test_every_command_ends_well_and_prints_what_is_shown(document, folder, environment, ports):
    """Every command of a document, all in one shell, exits with 0, and prints what stands below it."""
    commands = shown(document)
    lines = [f"{with_ports(one.command, ports)}; printf '{SEPARATOR}%s{SEPARATOR}' $?" for one in commands]
    with ended(folder, environment):
        output, errors = run("\n".join(lines), folder, environment)
    *parts, _ = output.split(SEPARATOR)
    for one, printed, code in zip(commands, parts[0::2], parts[1::2], strict=True):
        assert code == "0", f"$ {one.command}\n{printed}\n{errors}"
        assert one.is_like(printed), f"$ {one.command}\n{printed}\ninstead of\n{one.output}"


@contextlib.contextmanager
def ended(folder, environment):
    """Whatever happens, no server is left."""
    try:
        yield
    finally:
        run("stateserve-ts --stop; torchserve --stop", folder, environment)


def run(script, folder, environment):
    """What a shell prints, on stdout and on stderr. It is not waited for what it leaves in the background."""
    output, errors = folder / "output.txt", folder / "errors.txt"
    with output.open("w") as to_output, errors.open("w") as to_errors:
        subprocess.run(
            ["bash", "-c", script],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=to_output,
            stderr=to_errors,
            timeout=DEADLINE_S,
            check=False,
        )
    return output.read_text(), errors.read_text()


def with_ports(text, ports):
    """The text with other ports."""
    return re.sub(rf"\b({'|'.join(PORTS)})\b", lambda found: ports[found[0]], text)


def test_the_move_starts_both_servers():
    """What is run above is not little: ours is started three times, the real TorchServe twice where there is Java."""
    started = [one.command.split()[0] for one in shown(MIGRATION) if " --start " in one.command]
    assert started.count("stateserve-ts") == 3
    assert started.count("torchserve") == (2 if HAS_JAVA else 0)


def test_the_plugin_is_the_one_that_is_shown():
    """The Python in the document is a part of examples/torchserve/plugin.py."""
    [code] = re.findall(r"```python\n(.*?)```", MIGRATION.read_text(encoding="utf-8"), re.DOTALL)
    assert code in (PROJECT / "examples" / "torchserve" / "plugin.py").read_text(encoding="utf-8")


def test_every_difference_is_listed():
    """The list of differences is that of the comparison with TorchServe, which allows no other."""
    text = MIGRATION.read_text(encoding="utf-8")
    [listed] = re.findall(r"<!-- differences -->\n(.*?)<!-- /differences -->", text, re.DOTALL)
    should_be = "".join(f"- {reason}\n" for reason in differences())
    assert listed == should_be, f"it should be\n{should_be}"


def differences():
    """Every reason once, in the comparison's order."""
    headers = [f"`{name}` is sent: {reason}" for name, reason in ADDED_HEADERS.items()]
    own = ", ".join(f"`{name}*`" for name in ADDED_METRICS)
    metrics = f"the metrics page goes on with this server's own metrics: {own}"
    return list(dict.fromkeys([*(one.reason for one in DIFFERENCES), *NOT_COMPARED.values(), *headers, metrics]))


@pytest.mark.parametrize("document", [MIGRATION, REFERENCE], ids=lambda document: document.stem)
def test_links_lead_somewhere(document):
    """Every file and every heading that a document links to is there."""
    found = re.findall(r"\]\((?!http)([^)#]*)#?([^)]*)\)", document.read_text(encoding="utf-8"))
    for target, heading in found:
        file = document if not target else document.parent / target
        assert file.exists(), target
        assert not heading or heading in headings(file), f"{target}#{heading}"


def headings(path):
    """The names of a document's headings, as links spell them."""
    found = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return [re.sub(r"[^\w -]", "", text.lower()).replace(" ", "-") for text in found]

"""docs/migrate-from-torchserve.md and docs/torchserve.md are true: their commands are run, and print what stands there."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from bench.processes import free_port, server_environment
from tests.torchserve.differences import ADDED_HEADERS, ADDED_METRICS, DIFFERENCES, NOT_COMPARED

PROJECT = Path(__file__).parents[1]
DOC = (PROJECT / "docs" / "migrate-from-torchserve.md").read_text(encoding="utf-8")
REFERENCE = (PROJECT / "docs" / "torchserve.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"(<!-- java -->\n)?```console\n(.*?)```", re.DOTALL)
PORTS = ("8080", "8081", "8082", "7070", "7071")
NOT_RUN = ("pip install",)
DEADLINE_S = 120
HANDLER = "def handle(data, context):\n    return data and ['here'] * len(data)\n"
MANIFEST = '{"model": {"modelName": "yours", "handler": "yours.py", "modelVersion": "1.0"}}'


@dataclass(frozen=True)
class Shown:
    """A command of the document, and what stands below it: what it prints, `…` standing for anything in a line."""

    command: str
    output: str

    def is_like(self, printed):
        pattern = re.escape(self.output.rstrip("\n")).replace("…", "[^\n]*")
        return re.fullmatch(pattern, printed.strip("\n")) is not None


def shown(document):
    """A document's commands, in order; without those that need Java, where there is none."""
    blocks = [block for java, block in BLOCK.findall(document) if not java or shutil.which("java")]
    found = [part for block in blocks for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]]
    commands = [Shown(*part.partition("\n")[::2]) for part in found]
    return [one for one in commands if not one.command.startswith(NOT_RUN)]


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """Each command of the document with its exit code and what it printed, all in one shell; nothing of it runs any more."""
    folder = tmp_path_factory.mktemp("migration")
    project = folder / "project"
    ports = {port: str(free_port()) for port in PORTS}
    begin(project, ports)
    commands = shown()
    lines = [f"{with_ports(one.command, ports)}; printf '\\036%s\\036' $?" for one in commands]
    environment = shell_environment(folder)
    try:
        output, errors = run("\n".join(lines), project, environment)
    finally:
        run("stateserve-ts --stop; torchserve --stop", folder, environment)
    parts = output.split("\036")
    printed, codes = parts[0::2], parts[1::2]
    assert len(codes) == len(commands), output + errors
    return list(zip(commands, codes, printed, strict=False)), errors


def run(script, folder, environment):
    """What a shell prints. It is not waited for what it leaves in the background."""
    with (folder / "output.txt").open("w+") as output, (folder / "errors.txt").open("w+") as errors:
        subprocess.run(
            ["bash", "-c", script],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
            timeout=DEADLINE_S,
            check=False,
        )
        return (folder / "output.txt").read_text(), (folder / "errors.txt").read_text()


def begin(project, ports):
    """The project's folder as its user has it: the examples, and a model store of the user's own."""
    for name in ("digits", "torchserve"):
        shutil.copytree(PROJECT / "examples" / name, project / "examples" / name, ignore=shutil.ignore_patterns("best.pth"))
    config = project / "examples" / "torchserve" / "config.properties"
    config.write_text(with_ports(config.read_text(), ports))
    shutil.copy(config, project)
    (project / "model_store").mkdir()
    with zipfile.ZipFile(project / "model_store" / "yours.mar", "w") as archive:
        archive.writestr("MAR-INF/MANIFEST.json", MANIFEST)
        archive.writestr("yours.py", HANDLER)


def with_ports(text, ports):
    """The text, with ports that nobody else listens on."""
    return re.sub(rf"\b({'|'.join(PORTS)})\b", lambda found: ports[found[0]], text)


def shell_environment(folder):
    """Our commands first, temporary files in the folder, one thread, and nothing of TorchServe's or ours that is set here."""
    ours = ("TS_", "LOG_LOCATION", "METRICS_", "PYTHONPATH")
    kept = {name: value for name, value in server_environment().items() if not name.startswith(ours)}
    (folder / "tmp").mkdir()
    scripts = Path(sys.executable).parent
    temporary = {name: str(folder / "tmp") for name in ("TMPDIR", "TEMP")}
    return {**kept, **temporary, "OMP_NUM_THREADS": "1", "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}"}


def test_every_command_ends_well_and_prints_what_is_shown(ran):
    """Every command of the document exits with 0, and prints what stands below it."""
    commands, errors = ran
    for one, code, printed in commands:
        assert code == "0", f"$ {one.command}\n{printed}\n{errors}"
        assert one.is_like(printed), f"$ {one.command}\n{printed}\ninstead of\n{one.output}"


def test_both_servers_were_asked(ran):
    """The document's commands are more than a few, and those of the real TorchServe among them need Java."""
    commands, _ = ran
    starts = [one.command.split()[0] for one, _, _ in commands if " --start " in one.command]
    assert starts.count("stateserve-ts") == 3
    assert starts.count("torchserve") == (2 if shutil.which("java") else 0)


def test_the_document_shows_the_plugin():
    """What stands in the document of plugin.py is part of the file."""
    [code] = re.findall(r"```python\n(.*?)```", DOC, re.DOTALL)
    assert code in (PROJECT / "examples" / "torchserve" / "plugin.py").read_text()


def test_every_difference_is_in_the_document():
    """The differences in the document are those that the comparison with TorchServe allows, and no other."""
    [listed] = re.findall(r"<!-- differences -->\n(.*?)<!-- /differences -->", DOC, re.DOTALL)
    assert listed == "".join(f"- {reason}\n" for reason in differences()), "\n".join(["it should be", *differences()])


def differences():
    """Every reason once."""
    headers = [f"`{name}` is sent: {reason}" for name, reason in ADDED_HEADERS.items()]
    metrics = f"the metrics page goes on with this server's own metrics: {', '.join(f'`{name}*`' for name in ADDED_METRICS)}"
    return list(dict.fromkeys([*(one.reason for one in DIFFERENCES), *NOT_COMPARED.values(), *headers, metrics]))


def test_links_lead_somewhere():
    """Every file and every heading that the two documents name is there."""
    for name in ("migrate-from-torchserve.md", "torchserve.md"):
        path = PROJECT / "docs" / name
        for target, _, heading in re.findall(r"\]\((?!http)([^)#]*)(#([^)]*))?\)", path.read_text(encoding="utf-8")):
            file = path if not target else (path.parent / target)
            assert file.exists(), target
            assert not heading or heading in headings(file), f"{target}#{heading}"


def headings(path):
    """The names of a document's headings, as links spell them."""
    found = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return [re.sub(r"[^\w -]", "", text.lower()).replace(" ", "-") for text in found]

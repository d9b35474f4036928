"""What every Dockerfile must hold, read from the files."""

import ast
import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from tests.docker.build import PROJECT, ROOTED, copy_context
from tests.docker.dockerfile import filled, ignored_by, read

DOCKER = PROJECT / "docker"
FILES = {path.suffix[1:]: read(path) for path in sorted(DOCKER.glob("Dockerfile.*"))}
TARGETS = [(name, stage.name) for name, file in FILES.items() for stage in file.stages if stage.all("ENTRYPOINT")]
SERVERS = [(name, target) for name, target in TARGETS if name != "export"]
PINNED = re.compile(r"[a-z/]+:v?\d+\.\d+\.\d+[\w.-]*")
HADOLINT = Path(sys.executable).with_name("hadolint")
EXTRAS = {
    "cpu": "cpu,images,text",
    "cuda": "gpu,images,text",
    "export": "cpu,export,images,text",
    "torchserve": "cpu,images,text,torchserve",
}


def pins(path):
    return dict(line.split("==") for line in path.read_text().splitlines() if line and not line.startswith("#"))


def names_of(requirements):
    return {re.split(r"[\[<>=;~! ]", one)[0].lower().replace("_", "-") for one in requirements}


def told(name, target, instruction):
    return FILES[name].told(instruction, target)


def test_there_is_one_per_stage():
    """The four images that the design names are there."""
    assert set(FILES) == {"cpu", "cuda", "export", "torchserve"}


@pytest.mark.parametrize("name", FILES)
def test_bases_are_pinned(name):
    """Each stage stands on an earlier one, or on the one base, by a tag that says a whole version: never `latest`."""
    file = FILES[name]
    base = file.arguments["BASE"]

    assert PINNED.fullmatch(base)
    assert {stage.base for stage in file.stages} - {stage.name for stage in file.stages} == {base}


def test_all_images_have_one_base():
    """What is built in one image's stage runs on the same Python in another's."""
    assert len({file.arguments["BASE"] for file in FILES.values()}) == 1


@pytest.mark.parametrize(("name", "target"), TARGETS)
def test_the_user_is_a_number_and_not_root(name, target):
    """Kubernetes' runAsNonRoot can be checked before the image runs: the user is numeric, and above the system's own."""
    user, group = told(name, target, "USER").text.split(":")

    assert int(user) >= 10000
    assert int(group) >= 10000


@pytest.mark.parametrize(("name", "target"), SERVERS)
def test_servers_have_a_health_check_without_more_programs(name, target):
    """The health check is Python alone, in exec form, and asks the inference address for what is said at HEALTH_URL."""
    check = told(name, target, "HEALTHCHECK")
    url = {
        key: value
        for stage in FILES[name].line_of(target)
        for one in stage.all("ENV")
        for key, value in one.pairs().items()
        if key == "HEALTH_URL"
    }["HEALTH_URL"]

    assert set(check.flags) == {"interval", "timeout", "start-period", "retries"}
    assert json.loads(check.text.removeprefix("CMD ")) == ["python", "-I", "/opt/stateserve/health.py"]
    assert url.removeprefix("http://127.0.0.1:8080") in {"/v2/health/ready", "/ping"}


def test_a_command_that_ends_has_no_health_check():
    """The export's image says so, for a base that would have one."""
    assert told("export", None, "HEALTHCHECK").text == "NONE"


@pytest.mark.parametrize(("name", "target"), TARGETS)
def test_the_command_gets_the_signals(name, target):
    """ENTRYPOINT and CMD are in exec form, so that no shell stands between the runtime's SIGTERM and the server."""
    assert told(name, target, "STOPSIGNAL").text == "SIGTERM"
    assert told(name, target, "ENTRYPOINT").text.startswith("[")
    assert all(one.text.startswith("[") for stage in FILES[name].stages for one in stage.all("CMD"))


@pytest.mark.parametrize(("name", "target"), TARGETS)
def test_images_come_without_what_built_them(name, target):
    """The image's own stages install nothing by pip, and take from the build stage the environment alone."""
    stages = FILES[name].line_of(target)

    assert not [one.text for stage in stages for one in stage.all("RUN") if "pip" in one.text]
    assert [one.words() for stage in stages for one in stage.all("COPY") if "from" in one.flags] == [["/opt/stateserve"] * 2]


@pytest.mark.parametrize("name", FILES)
def test_what_pip_installs_is_pinned(name):
    """Every installation stands under a file of constraints, nothing is cached, and pip and setuptools are pinned, too."""
    build = FILES[name].stage("build")
    installs = [
        command
        for one in build.all("RUN")
        for command in one.text.split("&&")
        if re.search(r"pip (--python \S+ )?(install|wheel)", command)
    ]

    assert len(installs) >= 3
    for command in installs:
        assert "--constraint " in command or "--no-deps --no-build-isolation" in command
    assert build.all("ENV")[0].pairs()["PIP_NO_CACHE_DIR"] == "1"
    assert set(pins(DOCKER / "constraints-build.txt")) >= {"pip", "setuptools"}


@pytest.mark.parametrize(("name", "extras"), EXTRAS.items())
def test_the_extras_are_pinned(name, extras):
    """Each image installs its own extras, and constraints.txt, or CUDA's, has every package that they name."""
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *(one for key in extras.split(",") for one in project["optional-dependencies"][key])]
    pinned = pins(PROJECT / "constraints.txt") | (pins(DOCKER / "constraints-cuda.txt") if name == "cuda" else {})

    assert f'"$(echo /opt/wheels/*.whl)[{extras}]"' in FILES[name].stage("build").all("RUN")[-1].text
    assert names_of(wanted) <= names_of(pinned)


def test_cuda_has_the_same_onnx_runtime():
    """The image for CUDA serves with the version that the tests run, and no version of its own of what constraints.txt pins."""
    usual, cuda = pins(PROJECT / "constraints.txt"), pins(DOCKER / "constraints-cuda.txt")

    assert cuda["onnxruntime-gpu"] == usual["onnxruntime"]
    assert not set(usual) & set(cuda)


def test_the_library_path_is_that_of_the_base():
    """CUDA's libraries are looked for below the Python that the base has."""
    (version,) = re.findall(r"python:(\d+\.\d+)", FILES["cuda"].arguments["BASE"])
    paths = FILES["cuda"].stages[-1].all("ENV")[0].pairs()["LD_LIBRARY_PATH"].split(":")

    assert paths == [f"/opt/stateserve/lib/python{version}/site-packages/nvidia/{name}/lib" for name in ("cu13", "cudnn")]


@pytest.mark.parametrize("name", FILES)
def test_what_is_copied_is_there(name):
    """Every COPY takes what the project has and .dockerignore lets through, or what an earlier stage's root may have."""
    file, ignored = FILES[name], ignored_by(PROJECT / ".dockerignore")
    for number, stage in enumerate(file.stages):
        for one in stage.all("COPY"):
            *sources, _ = one.words()
            if "from" in one.flags:
                assert one.flags["from"] in {earlier.name for earlier in file.stages[:number]}
            else:
                assert all((PROJECT / source).exists() and (source == "." or not ignored(source)) for source in sources)


@pytest.mark.parametrize("name", FILES)
def test_the_version_is_the_projects(name):
    """The image says the version of what is in it."""
    version = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["version"]
    labels = {key: value for stage in FILES[name].stages for one in stage.all("LABEL") for key, value in one.pairs().items()}

    assert labels["org.opencontainers.image.version"] == version
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"


@pytest.mark.parametrize("name", FILES)
def test_folders_are_known_to_the_executing_test(name):
    """What a Dockerfile makes or fills lies below folders that `make docker` moves elsewhere: no step touches this machine."""
    for stage in FILES[name].stages:
        targets = [one.words()[-1] for one in stage.all("COPY")] + [one.text for one in stage.all("WORKDIR")]
        assert all(target.startswith((*ROOTED, "./", ".", "docker/")) for target in targets)


def test_the_context_is_small(tmp_path):
    """A build sees the sources and nothing else: no checkpoints, models, environments, tests, git, caches."""
    copy_context(tmp_path / "context")
    found = {path.name for path in (tmp_path / "context").iterdir()}
    size = sum(path.stat().st_size for path in (tmp_path / "context").rglob("*") if path.is_file())

    rooms = {"artifact", "bench", "checkpoints", "export", "foundation", "model_defs", "serving"}
    files = {"pyproject.toml", "constraints.txt", "README.md", "LICENSE", "stateserve.py"}
    assert found == rooms | files | {"docker"}
    assert not list((tmp_path / "context").rglob("__pycache__"))
    assert size < 4e6


def test_programs_of_images_need_nothing_but_python():
    """docker/*.py import the standard library alone."""
    for path in DOCKER.glob("*.py"):
        tree = ast.parse(path.read_text())
        imported = {name.name.partition(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
        assert imported <= sys.stdlib_module_names
        assert not [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]


def test_hadolint_finds_nothing():
    """hadolint, with every rule down to matters of style, passes the files as they are, and refuses one that is not clean."""
    if not HADOLINT.exists():
        pytest.skip("hadolint is not installed here: its wheel is for Linux")

    def found(*files, given=None):
        command = [HADOLINT, "--config", DOCKER / "hadolint.yaml", *files]
        return subprocess.run(command, input=given, capture_output=True, text=True, check=False)

    clean = found(*(file.path for file in FILES.values()))
    dirty = found("-", given="FROM python\nRUN cd /tmp && pip install numpy\nCMD sleep 1\n")

    assert (clean.returncode, clean.stdout) == (0, "")
    assert dirty.returncode == 1
    assert {rule for rule in ("DL3006", "DL3013", "DL3025", "DL3042") if rule in dirty.stdout} == {
        "DL3006",
        "DL3013",
        "DL3025",
        "DL3042",
    }


def test_compose_names_what_is_there():
    """compose.yaml and its part for GPUs: pinned images, Dockerfiles and mounted files that exist, ports on loopback alone."""
    services = yaml.safe_load((PROJECT / "compose.yaml").read_text())["services"]
    gpu = yaml.safe_load((DOCKER / "compose.gpu.yaml").read_text())["services"]

    assert set(services) == {"server", "prometheus", "grafana"}
    assert set(gpu) == {"server"}
    for service in services.values():
        assert PINNED.fullmatch(service["image"])
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
        sources = [volume.split(":")[0] for volume in service["volumes"]]
        assert all((PROJECT / source).exists() for source in sources if source.startswith("./docker/"))
    for build in (services["server"]["build"], gpu["server"]["build"]):
        assert (PROJECT / build["context"] / build["dockerfile"]).is_file()


def test_compose_waits_for_what_was_begun():
    """The runtime's patience at the end is longer than the server's drain."""
    from serving.settings import Settings

    service = yaml.safe_load((PROJECT / "compose.yaml").read_text())["services"]["server"]

    assert int(service["stop_grace_period"].removesuffix("s")) > Settings().drain_timeout_s


def test_variables_are_filled_in():
    """The reader replaces variables as Docker does, and refuses forms that it does not know."""
    assert filled("a $B ${C}", {"B": "1", "C": "2"}) == "a 1 2"
    with pytest.raises(ValueError, match="does not understand"):
        filled("${B:-x}", {"B": ""})


def test_the_reader_guesses_nothing(tmp_path):
    """An instruction, a flag or a form that the reader does not know is an error."""
    for text in ("FROM a\nADD x y\n", "FROM a\nRUN --mount=type=cache,target=/x true\n", "RUN x\n", "FROM a\nRUN <<E\nx\nE\n"):
        path = tmp_path / "Dockerfile"
        path.write_text(text)
        with pytest.raises(ValueError, match=r"known|before FROM"):
            read(path)


def test_the_reader_joins_lines(tmp_path):
    """Lines that go on are one instruction, comments between them count for nothing, and stages have their names."""
    path = tmp_path / "Dockerfile"
    path.write_text('ARG B=python:1.2.3\n# c\nFROM ${B} AS one\nENV A=1 \\\n# between\n    C="x y"\nFROM one\nUSER 7:7\n')

    file = read(path)

    assert [(stage.base, stage.name) for stage in file.stages] == [("python:1.2.3", "one"), ("one", "stage-1")]
    assert file.stages[0].all("ENV")[0].pairs() == {"A": "1", "C": "x y"}
    assert file.told("USER").words() == ["7:7"]


def test_the_environment_for_tests_has_hadolint():
    """`make lint` runs it: the program is where the Makefile looks."""
    assert "hadolint --config docker/hadolint.yaml docker/Dockerfile.*" in (PROJECT / "Makefile").read_text()
    assert shutil.which("hadolint", path=HADOLINT.parent) or not sys.platform.startswith("linux")

"""Each Dockerfile's steps in an empty environment, and then what the image is for: `make docker`. See build.py."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import artifact
from bench.processes import free_port
from serving.torchserve.packed.package import package
from tests.docker.build import PROJECT, Builder, command_of, installed_mb, started, user_of
from tests.docker.dockerfile import read
from tests.docker.simulated_apt import require_installable

DEADLINE_S = 100
ROWS = [[0.5, -1.0, 2.0, 3.25], [0.0, 0.25, -3.5, 1.0]]
LIMITS_MB = {"cpu": 330, "export": 1300, "torchserve": 1300}
"""What an image's Python environment may take, in 10^6 bytes; docs/docker.md says what it takes."""

pytestmark = [
    pytest.mark.docker,
    pytest.mark.skipif(sys.platform != "linux", reason="the images are for Linux"),
    pytest.mark.skipif(
        f"python:{sys.version_info[0]}.{sys.version_info[1]}." not in (PROJECT / "docker/Dockerfile.cpu").read_text(),
        reason="the images' Python is another than this one",
    ),
]


@pytest.fixture
def folder():
    """A folder that the images' user may pass through, and that is gone in the end."""
    made = Path(tempfile.mkdtemp(prefix="image"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


def dockerfile(name):
    return read(PROJECT / "docker" / f"Dockerfile.{name}")


def logits_of(url):
    """The logits that are answered to `ROWS`; nothing where there is no answer, or another than 200."""
    body = json.dumps({"inputs": {"x": ROWS}}).encode()
    asked = urllib.request.Request(url, body, {"content-type": "application/json"})
    with contextlib.suppress(OSError), urllib.request.urlopen(asked, timeout=10) as answer:
        return json.loads(answer.read())["outputs"]["logits"]
    return None


def is_healthy(file, image, target, variables):
    check = file.told("HEALTHCHECK", target)
    command = command_of(image, replace(check, text=check.text.removeprefix("CMD ")))
    options = {"cwd": image.place(), "env": variables, **user_of(file, target)}
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


@contextlib.contextmanager
def serving(file, image, target, variables, *words):
    """The image's command, as the image's user, with more words, until its health check holds."""
    entry = command_of(image, file.told("ENTRYPOINT", target))
    log = image.folder / f"{target or 'image'}.log"
    options = {"cwd": image.place(), "env": variables, **user_of(file, target)}
    with started([*entry, *words], log, **options) as process:
        end = time.monotonic() + DEADLINE_S
        while (found := is_healthy(file, image, target, variables)).returncode:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < end, found.stdout + log.read_text()
            time.sleep(0.1)
        yield process, log


def require_ends(process, log):
    """A SIGTERM to the first process, as a container runtime sends it, ends it with exit code 0, and then the others."""
    process.send_signal(signal.SIGTERM)
    assert process.wait(DEADLINE_S) == 0, log.read_text()
    end = time.monotonic() + DEADLINE_S
    with contextlib.suppress(ProcessLookupError):
        while time.monotonic() < end:
            os.killpg(process.pid, 0)
            time.sleep(0.05)
        pytest.fail("processes are left")


def packages_of(image):
    found = image.root.glob("opt/stateserve/lib/python3*/site-packages/*.dist-info")
    return {path.name.partition("-")[0].lower() for path in found}


def require_size(image, name):
    size_mb = installed_mb(image)
    print(f"Dockerfile.{name}: {size_mb:.0f} MB in /opt/stateserve, {len(packages_of(image))} packages")
    assert size_mb < LIMITS_MB[name]


def test_the_server_without_torch(folder, mlp_artifact):
    """Dockerfile.cpu: the environment has neither torch nor pip; its server becomes healthy, answers right, and ends."""
    file = dockerfile("cpu")
    image = Builder(file, folder).image()
    assert not {"torch", "pip", "setuptools", "onnx"} & packages_of(image)
    require_size(image, "cpu")
    shutil.copytree(mlp_artifact, image.root / "models" / "mlp" / "1")
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    own = {"STATESERVE_HOST": "127.0.0.1", "STATESERVE_PORT": str(port), "HEALTH_URL": f"{url}/v2/health/ready"}
    variables = image.variables() | own

    assert is_healthy(file, image, None, variables).returncode == 1
    with serving(file, image, None, variables) as (process, log):
        answered = wait_for_logits(f"{url}/predictions/mlp", process, log)
        require_ends(process, log)

    expected = artifact.load(mlp_artifact).run({"x": np.array(ROWS, np.float32)})["logits"]
    assert np.allclose(answered, expected, rtol=0, atol=1e-6)


def test_the_export(folder, mlp_artifact):
    """Dockerfile.export: what it exports has the content id that the same checkpoint has here."""
    from make_mlp import make_mlp

    file = dockerfile("export")
    image = Builder(file, folder).image()
    assert "torch" in packages_of(image)
    require_size(image, "export")
    work = image.root / "work"
    make_mlp(work)
    shutil.rmtree(work / "repository")
    if owner := user_of(file):
        os.chown(work, owner["user"], owner["group"])

    ended = subprocess.run(
        [*command_of(image, file.told("ENTRYPOINT")), "export", "--ckpt", "mlp.pth", "--repository", "repository"],
        cwd=image.place(),
        env=image.variables(),
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
        **user_of(file),
    )

    assert ended.returncode == 0, ended.stderr
    made = work / ended.stdout.splitlines()[-1]
    content_ids = [json.loads((one / "manifest.json").read_text())["content_id"] for one in (made, mlp_artifact)]
    assert content_ids[0] == content_ids[1]


@pytest.mark.skipif(shutil.which("java") is None, reason="the real TorchServe needs Java 17, and `java` is not installed here")
def test_archives(folder, mlp_artifact):
    """Dockerfile.torchserve: both images serve a packaged artifact, are healthy, and end when they are told to."""
    file = dockerfile("torchserve")
    builder = Builder(file, folder)
    expected = artifact.load(mlp_artifact).run({"x": np.array(ROWS, np.float32)})["logits"]
    for target in ("stateserve-ts", "torchserve"):
        image = builder.image(target)
        require_size(image, "torchserve")
        package(mlp_artifact, image.root / "model_store")
        url = rewrite_addresses(image)
        variables = image.variables() | {"HEALTH_URL": f"{url}/ping"}
        words = [image.rooted(word) for word in file.told("CMD", target).words()]
        with serving(file, image, target, variables, *words) as (process, log):
            answered = wait_for_logits(f"{url}/predictions/mlp", process, log)
            require_ends(process, log)
        assert np.allclose(answered, expected, rtol=0, atol=1e-6)
    require_installable(image.packages, folder / "apt")


def rewrite_addresses(image):
    """The image's config.properties, as one who mounts his own would write it: free ports of 127.0.0.1."""
    path = image.root / "etc/stateserve/config.properties"
    port, text = free_port(), path.read_text()
    for number in range(3):
        text = re.sub(rf"http://[\d.]+:{8080 + number}", f"http://127.0.0.1:{port + number}", text)
    path.unlink()  # it is a link to the earlier stage's file
    path.write_text(image.rooted(text))
    return f"http://127.0.0.1:{port}"


def wait_for_logits(url, process, log):
    """TorchServe's /ping is 200 while workers still start; a prediction is answered when they have."""
    end = time.monotonic() + DEADLINE_S
    while (answer := logits_of(url)) is None:
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.2)
    return answer


@pytest.mark.parametrize("torch", ["", "torch"])
def test_cuda_is_resolved(folder, torch):
    """Dockerfile.cuda: pip finds every package in the versions that are pinned, with torch and without; none is downloaded."""
    resolved = folder / "resolved"

    def dry(command):
        tried = f"install --dry-run --ignore-installed --use-feature=fast-deps --report {resolved}-$$.json"
        return command.replace(
            "pip --python /opt/stateserve/bin/python install", f"pip --python /opt/stateserve/bin/python {tried}"
        )

    Builder(dockerfile("cuda"), folder / "build", dry, TORCH=torch).image()

    found = {
        one["metadata"]["name"].lower().replace("_", "-"): one["metadata"]["version"]
        for path in folder.glob("resolved-*.json")
        for one in json.loads(path.read_text())["install"]
    }
    pins = dict(
        line.lower().replace("_", "-").split("==")
        for path in ("constraints.txt", "docker/constraints-cuda.txt")
        for line in (PROJECT / path).read_text().splitlines()
        if "==" in line
    )
    named = ("onnxruntime-gpu", "nvidia-cublas", "nvidia-cuda-nvrtc", "nvidia-cuda-runtime", "nvidia-cudnn-cu13", "nvidia-cufft")
    assert set(named) <= set(found)
    assert ("torch" in found) == bool(torch)
    assert "onnxruntime" not in found
    assert {name: version.partition("+")[0] for name, version in found.items() if name != "stateserve"} == {
        name: pins.get(name) for name in found if name != "stateserve"
    }

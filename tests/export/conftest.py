"""What the tests of this room share: a folder to export in, and a few artifacts that are made once."""

import contextlib
import hashlib
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import operators
import pytest
import torch

import model_defs
from export.report import Silent
from export.run import ExportRequest, export
from foundation.errors import StateserveError
from model_defs import plugins as loaded_plugins
from model_defs import registry

ROOT = Path(__file__).parent.parent.parent
PLUGINS = Path(__file__).parent / "plugins"


@contextlib.contextmanager
def fresh_registry():
    """What is registered, loaded or imported as a plugin inside is gone after it."""
    definitions, loaded, modules = registry.registered(), set(loaded_plugins._loaded), set(sys.modules)
    try:
        yield
    finally:
        registry.restore(definitions)
        loaded_plugins._loaded.intersection_update(loaded)
        for name in set(sys.modules) - modules:
            if name.startswith("stateserve_plugin"):
                del sys.modules[name]


class Work:
    """A folder with best.pth, best.yaml and a repository; exports run in this process, ONNX only unless the test says more."""

    def __init__(self, folder):
        self.folder = folder
        self.repository = folder / "repository"
        self.checkpoint = folder / "best.pth"
        self.plugins = ()

    def plugin(self, stem):
        """The path of one of the test plugins, which the next exports load."""
        path = str(PLUGINS / f"{stem}.py")
        self.plugins = (path,)
        model_defs.load_plugin(path)
        return path

    def net(self, plugin, name, params=None, seed=1, **config):
        """Saves the weights of a model of that plugin, writes its config, and gives the model."""
        self.plugin(plugin)
        torch.manual_seed(seed)
        model = model_defs.build(name, params or {})
        if not any(tensor.is_meta for tensor in model.state_dict().values()):
            self.save(model.state_dict())
        self.write({**self.data(name, params), **config})
        return model.eval()

    def data(self, name, params=None):
        """A config as plain data: rows of 4 numbers in, rows of 3 out."""
        return {
            "schema": 1,
            "model": {"name": name, "params": params or {}},
            "inputs": {"x": {"dtype": "float32", "shape": ["batch", 4], "range": [-1, 1]}},
            "dims": {"batch": {"min": 1, "max": 8}},
            "outputs": {"y": {"dtype": "float32", "shape": ["batch", 3]}},
            "formats": ["onnx"],
        }

    def write(self, data, name="best.yaml"):
        """Writes a config: plain data, or its text."""
        path = self.folder / name
        path.write_text(data if isinstance(data, str) else json.dumps(data, indent=1), encoding="utf-8")  # JSON is YAML
        return path

    def save(self, value, name="best.pth"):
        """Saves a checkpoint as training does."""
        path = self.folder / name
        with warnings.catch_warnings(action="ignore"):
            torch.save(value, path)
        return path

    def request(self, **changes):
        given = {"checkpoint": self.checkpoint, "repository": self.repository, "plugins": self.plugins, **changes}
        return ExportRequest(**given)

    def export(self, **changes):
        return export(self.request(**changes), Silent())

    def refuse(self, code, **changes):
        """The message of an export that ends with this exit code and leaves every file of the folder as it was."""
        before = self.files()
        with pytest.raises(StateserveError) as caught:
            self.export(**changes)
        assert caught.value.exit_code == code, str(caught.value)
        assert self.files() == before
        return str(caught.value)

    def files(self):
        """Every path of the folder, with the sha256 of its bytes; directories too, but Python's own cache of a plugin."""
        return {
            str(path.relative_to(self.folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "directory"
            for path in self.folder.rglob("*")
            if "__pycache__" not in path.parts
        }

    def command(self, *words, program=("-m", "export")):
        """Runs the real command in the folder; gives the finished process, with its output as text."""
        env = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200", "NO_COLOR": "1"}
        return subprocess.run(
            [sys.executable, *program, *map(str, words)], cwd=self.folder, env=env, capture_output=True, text=True, check=False
        )


@pytest.fixture(autouse=True, scope="package")
def _one_thread():
    """These models are small: on a busy machine torch's threads cost more in waiting for each other than they save."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True, scope="package")
def _operators_once():
    with operators.compiled_once():
        yield


@pytest.fixture(autouse=True)
def _fresh_registry():
    """What a test registers or loads as a plugin is gone after it."""
    with fresh_registry():
        yield


@pytest.fixture
def work(tmp_path):
    """An empty folder to export in."""
    return Work(tmp_path)


@pytest.fixture(scope="session")
def work_in():
    """A function that gives a folder to export in, for what several tests share."""
    return Work


@pytest.fixture(scope="session")
def small(tmp_path_factory):
    """The model `small` exported to every format, once: the folder, and what export said. Read only."""
    folder = Work(tmp_path_factory.mktemp("small"))
    with fresh_registry():
        folder.net("good", "small", outputs={"y": {"dtype": "float32", "shape": ["batch", 3], "labels": "names.txt"}})
        folder.write("low\nmiddle\nhigh\n", "names.txt")
        return folder, folder.export(formats=("onnx", "torchscript", "pt2"))


@pytest.fixture(scope="session")
def pixels(tmp_path_factory):
    """A small ResNet over uint8 images, exported to every format in float16, once: the model, and what export said. Read only."""
    params = {"num_classes": 3, "normalize": {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}}
    work = Work(tmp_path_factory.mktemp("pixels"))
    with fresh_registry():
        torch.manual_seed(0)
        plain = model_defs.build("resnet18", {"num_classes": 3})
        for module in plain.modules():
            if isinstance(module, torch.nn.BatchNorm2d) and module.running_mean is not None and module.running_var is not None:
                module.running_mean.normal_(std=0.1)
                module.running_var.uniform_(0.5, 2)
        work.save({"state_dict": plain.state_dict()})  # as torchvision's: no key of the normalisation
        model = model_defs.build("resnet18", params).eval()
        model.load_state_dict(plain.state_dict())
        work.write(
            {
                **work.data("resnet18", params),
                "inputs": {"image": {"dtype": "uint8", "shape": ["batch", 3, 32, 32], "range": [0, 255]}},
                "dims": {"batch": {"min": 1, "max": 4}},
                "precision": "float16",
            }
        )
        return model, work.export(formats=("onnx", "torchscript", "pt2"))

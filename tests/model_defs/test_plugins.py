"""Plugins: how they are run, under which name, and what is said of those that fail."""

import sys

import pytest

import model_defs
from model_defs import InvalidDefinition, PluginFailed

NET = """\
import pydantic
from torch import Tensor, nn

from model_defs import register_model


class NetParams(pydantic.BaseModel, frozen=True, extra="forbid"):
    width: int = 2


@register_model("{name}", params=NetParams)
class Net(nn.Module):
    def __init__(self, params: NetParams) -> None:
        super().__init__()
        self.fc = nn.Linear(params.width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x)
"""


def plugin(path, text=None, name="net"):
    """Writes a plugin file, and gives its path as a command line would."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(NET.format(name=name) if text is None else text, encoding="utf-8")
    return str(path)


def failure(spec):
    """The error that loading gives; nothing stays registered."""
    before = model_defs.registered()
    with pytest.raises(PluginFailed) as caught:
        model_defs.load_plugin(spec)
    assert model_defs.registered() == before
    assert "stateserve_plugin" not in sys.modules
    return caught.value


def test_a_file_brings_in_its_model(tmp_path):
    """It can be built like one of ours."""
    model_defs.load_plugin(plugin(tmp_path / "my_model.py"))
    model = model_defs.build("net", {"width": 5})
    assert model.get_parameter("fc.weight").shape == (1, 5)


def test_a_files_classes_do_not_know_where_the_file_lies(tmp_path):
    """The first is run as stateserve_plugin, the next as stateserve_plugin_2: what TorchScript writes is the same anywhere."""
    model_defs.load_plugin(plugin(tmp_path / "one" / "first.py", name="first"))
    model_defs.load_plugin(plugin(tmp_path / "two" / "second.py", name="second"))
    assert model_defs.definition("first").module.__module__ == "stateserve_plugin"
    assert model_defs.definition("second").module.__module__ == "stateserve_plugin_2"
    assert sys.modules["stateserve_plugin"].Net is model_defs.definition("first").module


def test_a_file_is_loaded_once(tmp_path, monkeypatch):
    """By whichever path it is named the second time."""
    spec = plugin(tmp_path / "nets" / "my_model.py")
    model_defs.load_plugin(spec)
    first = model_defs.definition("net").module
    model_defs.load_plugin(spec)
    monkeypatch.chdir(tmp_path / "nets")
    model_defs.load_plugin("my_model.py")
    assert model_defs.definition("net").module is first
    assert "stateserve_plugin_2" not in sys.modules


def test_a_module_is_loaded_by_its_dotted_name_once(tmp_path, monkeypatch):
    """It keeps its own name."""
    plugin(tmp_path / "nets_a" / "deep.py")
    monkeypatch.syspath_prepend(tmp_path)
    model_defs.load_plugin("nets_a.deep")
    model_defs.load_plugin("nets_a.deep")
    assert model_defs.definition("net").module.__module__ == "nets_a.deep"


def test_a_module_that_was_imported_before_counts_as_registered(tmp_path, monkeypatch):
    """An application may import its models itself and name them as a plugin as well."""
    plugin(tmp_path / "nets_b" / "__init__.py", "import nets_b.deep\n")
    plugin(tmp_path / "nets_b" / "deep.py")
    monkeypatch.syspath_prepend(tmp_path)
    __import__("nets_b")
    model_defs.load_plugin("nets_b")
    assert model_defs.definition("net").module.__module__ == "nets_b.deep"


def test_a_missing_file_is_named(tmp_path):
    """The system's own error is the cause."""
    spec = str(tmp_path / "gone.py")
    error = failure(spec)
    assert str(error) == (
        f"plugin {spec} cannot be read (FileNotFoundError: [Errno 2] No such file or directory: '{spec}'); "
        "expected a path that ends in .py, or a module that Python finds"
    )
    assert isinstance(error.__cause__, FileNotFoundError)


@pytest.mark.parametrize("spec", ["nets_gone", "nets_gone.deep", "", ".relative", "nets/my_model"])
def test_a_missing_module_is_named(spec):
    """So is what cannot be a module's name."""
    assert str(failure(spec)).startswith(f"plugin {spec} cannot be read (")
    assert str(failure(spec)).endswith("); expected a path that ends in .py, or a module that Python finds")


def test_bad_syntax_is_shown_with_its_line(tmp_path):
    """The plugin's line, not the interpreter's."""
    spec = plugin(tmp_path / "my_model.py", "import torch\n\nclass Net(:\n")
    error = failure(spec)
    assert str(error) == f"plugin {spec} is not valid Python at line 3: invalid syntax"
    assert isinstance(error.__cause__, SyntaxError)


def test_bytes_that_are_no_text_are_refused(tmp_path):
    """A checkpoint renamed to .py is not a plugin."""
    (tmp_path / "my_model.py").write_bytes(b"PK\x03\x04\x00\x00\xff\xfe")
    assert "my_model.py" in str(failure(str(tmp_path / "my_model.py")))


def test_an_exception_is_shown_with_the_plugins_line(tmp_path):
    """The innermost line of the plugin itself, wherever the exception rose; nothing that it had registered stays."""
    text = NET.format(name="net") + "\n\ndef sizes():\n    return int('many')\n\n\nsizes()\n"
    spec = plugin(tmp_path / "my_model.py", text)
    error = failure(spec)
    assert str(error) == (
        f"plugin {spec} failed at line 22 of {spec}: ValueError: invalid literal for int() with base 10: 'many'"
    )
    assert isinstance(error.__cause__, ValueError)


def test_a_plugin_that_was_mended_can_be_loaded(tmp_path):
    """A failure leaves nothing behind that would be in the way."""
    spec = plugin(tmp_path / "my_model.py", NET.format(name="net") + "1 / 0\n")
    assert str(failure(spec)) == f"plugin {spec} failed at line 19 of {spec}: ZeroDivisionError: division by zero"
    model_defs.load_plugin(plugin(tmp_path / "my_model.py"))
    assert model_defs.definition("net").module.__module__ == "stateserve_plugin"


def test_a_plugin_cannot_end_the_command(tmp_path):
    """A script that calls sys.exit() would otherwise end an export with 0 and no artifact."""
    spec = plugin(tmp_path / "my_model.py", "import sys\nsys.exit(0)\n")
    assert str(failure(spec)) == f"plugin {spec} failed at line 2 of {spec}: SystemExit: 0"


def test_an_exception_in_a_module_is_shown_with_its_file_and_line(tmp_path, monkeypatch):
    """A package's own file is named where it is that one which fails."""
    spec = plugin(tmp_path / "nets_c" / "__init__.py", "import torch\nraise RuntimeError('no')\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert str(failure("nets_c.deep")) == f"plugin nets_c.deep failed at line 2 of {spec}: RuntimeError: no"


def test_a_missing_import_inside_a_plugin_is_the_plugins_fault(tmp_path):
    """It is not taken for a plugin that is missing."""
    spec = plugin(tmp_path / "my_model.py", "import nets_gone\n")
    assert str(failure(spec)) == (f"plugin {spec} failed at line 1 of {spec}: ModuleNotFoundError: No module named 'nets_gone'")


def test_a_name_that_is_taken_is_refused_at_its_line(tmp_path):
    """A plugin cannot replace one of our models."""
    spec = plugin(tmp_path / "my_model.py", name="mlp")
    error = failure(spec)
    assert str(error) == (
        f"plugin {spec} failed at line 11 of {spec}: InvalidDefinition: cannot register stateserve_plugin.Net as 'mlp': "
        "the name is taken by model_defs.mlp.MLP; choose another name"
    )
    assert isinstance(error.__cause__, InvalidDefinition)


@pytest.mark.parametrize("spec", ["my_model.py", "nets_d"])
def test_a_plugin_must_register_a_model(tmp_path, monkeypatch, spec):
    """One that forgot the decorator would only be noticed as an unknown name."""
    plugin(tmp_path / "my_model.py", "import torch\n")
    plugin(tmp_path / "nets_d.py", "import torch\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    assert str(failure(spec)) == f"plugin {spec} registers no model, expected a class decorated with model_defs.register_model"

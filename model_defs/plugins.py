"""Plugins: Python files or modules of the user's that register models of their own when they are run."""

import importlib
import itertools
import sys
import traceback
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import module_from_spec
from pathlib import Path
from types import ModuleType

from model_defs.errors import PluginFailed
from model_defs.registry import registered, restore

FILE_MODULE = "stateserve_plugin"
"""The module name of the first plugin file; the second is `stateserve_plugin_2`, and so on."""

_loaded: set[str] = set()


def load_plugin(spec: str) -> None:
    """Runs a plugin so that its models are registered: a path that ends in `.py`, or a dotted module name. Once is enough.

    A file stands alone: what lies beside it cannot be imported unless Python finds it otherwise. It runs under a fixed module
    name, since TorchScript writes the name of a class's module into its bytes, which must not depend on where the file lies.
    Several files are numbered in the order in which they are loaded; one that is loaded again is not run again.

    Raises:
        PluginFailed: the file or module is not there, raises when it is run, or registers no model. Nothing stays registered.
    """
    is_file = spec.endswith(".py")
    identity = str(Path(spec).resolve()) if is_file else spec
    if identity in _loaded:
        return
    before = registered()
    try:
        module = _run_file(identity) if is_file else importlib.import_module(spec)
    except (Exception, SystemExit) as error:
        restore(before)
        raise PluginFailed(f"plugin {spec} {_reason(error, identity)}") from error
    if not _registers(module, known=set(before)):
        restore(before)
        if is_file:
            del sys.modules[module.__name__]
        raise PluginFailed(f"plugin {spec} registers no model, expected a class decorated with model_defs.register_model")
    _loaded.add(identity)


def _run_file(path: str) -> ModuleType:
    """Runs the file as a module that is in sys.modules while it runs, as an import would be, and after, unless it raises."""
    name = next(name for name in _file_modules() if name not in sys.modules)
    loader = SourceFileLoader(name, path)
    spec = ModuleSpec(name, loader, origin=path)
    spec.has_location = True
    module = module_from_spec(spec)
    sys.modules[name] = module
    try:
        loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _file_modules() -> itertools.chain[str]:
    return itertools.chain([FILE_MODULE], (f"{FILE_MODULE}_{number}" for number in itertools.count(2)))


def _registers(module: ModuleType, known: set[str]) -> bool:
    """Whether running the module registered something, now or, for a module that was imported before, then."""
    homes = [found.module.__module__ for found in registered().values()]
    return not registered().keys() <= known or any(f"{home}.".startswith(f"{module.__name__}.") for home in homes)


def _reason(error: BaseException, identity: str) -> str:
    """What went wrong, at which line of which file of the plugin's."""
    what = f"{type(error).__name__}: {error}"
    if isinstance(error, SyntaxError) and error.filename == identity:
        return f"is not valid Python at line {error.lineno}: {error.msg}"
    machinery = {__file__, importlib.__file__}
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename not in machinery]
    frames = [frame for frame in frames if not frame.filename.startswith("<frozen importlib")]
    if not frames:
        return f"cannot be read ({what}); expected a path that ends in .py, or a module that Python finds"
    own = [frame for frame in frames if frame.filename == frames[0].filename]
    return f"failed at line {own[-1].lineno} of {own[-1].filename}: {what}"

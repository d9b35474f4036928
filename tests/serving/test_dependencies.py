"""What a serving host must install holds no torch."""

import importlib.metadata

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def closure(name, extras):
    """Every distribution that installing `name[extras]` here brings, its own extras followed, markers evaluated."""
    found, left = {}, [(canonicalize_name(name), frozenset(extras))]
    while left:
        package, wanted = left.pop()
        if wanted <= found.get(package, frozenset({None})) and package in found:
            continue
        found[package] = found.get(package, frozenset()) | wanted
        for line in importlib.metadata.requires(package) or []:
            requirement = Requirement(line)
            environments = [{"extra": extra} for extra in ("", *wanted)]
            if requirement.marker is None or any(requirement.marker.evaluate(environment) for environment in environments):
                left.append((canonicalize_name(requirement.name), frozenset(requirement.extras)))
    return set(found)


FORBIDDEN = {"torch", "onnx", "onnxscript", "pyyaml", "torchvision", "torchserve", "tritonclient", "aiohttp", "httpx", "requests"}


def test_the_server_needs_no_torch():
    """`stateserve[cpu]` installs an engine and a web server, and neither torch nor any part of the export."""
    found = closure("stateserve", {"cpu"})

    assert {"onnxruntime", "fastapi", "granian", "numpy", "prometheus-client", "pysimdjson", "safetensors", "uvloop"} <= found
    assert not found & FORBIDDEN


def test_the_walk_finds_what_is_there():
    """The walk follows extras: the export's does bring torch."""
    assert {"torch", "onnx", "onnxscript", "pyyaml"} <= closure("stateserve", {"export"})


@pytest.mark.parametrize("package", ["fastapi", "granian"])
def test_the_walk_goes_deep(package):
    """It finds the requirements of requirements."""
    assert {"fastapi": "starlette", "granian": "click"}[package] in closure("stateserve", {"cpu"})

"""What `make gpu` needs of packages that are small to carry: beside PyTorch, NumPy and what exports (onnx, onnxscript).

Only the standard library is imported here: this is read before anything is installed.
"""

import importlib.util
from collections.abc import Mapping
from pathlib import Path

_CONSTRAINTS = Path(__file__).parents[2] / "constraints.txt"

PACKAGES: Mapping[str, str] = {
    "annotated-doc": "annotated_doc",
    "annotated-types": "annotated_types",
    "anyio": "anyio",
    "click": "click",
    "fastapi": "fastapi",
    "fastapi-offline": "fastapi_offline",
    "granian": "granian",
    "idna": "idna",
    "markdown-it-py": "markdown_it",
    "mdurl": "mdurl",
    "nvidia-ml-py": "pynvml",
    "opentelemetry-api": "opentelemetry",
    "orjson": "orjson",
    "prometheus-client": "prometheus_client",
    "psutil": "psutil",
    "pydantic": "pydantic",
    "pydantic-core": "pydantic_core",
    "pygments": "pygments",
    "pysimdjson": "simdjson",
    "python-multipart": "python_multipart",
    "pyyaml": "yaml",
    "rich": "rich",
    "safetensors": "safetensors",
    "shellingham": "shellingham",
    "starlette": "starlette",
    "typer": "typer",
    "typing-extensions": "typing_extensions",
    "typing-inspection": "typing_inspection",
    "uvloop": "uvloop",
}
"""Package -> the module by which it is found."""

HEAVY: Mapping[str, str] = {"numpy": "numpy", "torch": "torch", "onnx": "onnx", "onnxscript": "onnxscript"}
"""What has to be there: a CUDA build of PyTorch is gigabytes. ONNX Runtime's CUDA build is another engine where it is there."""


def missing(packages: Mapping[str, str]) -> list[str]:
    """Those that this Python does not find."""
    return [package for package, module in packages.items() if importlib.util.find_spec(module) is None]


def pinned() -> dict[str, str]:
    """The version of each, as constraints.txt has it: package -> `package==version`.

    Raises:
        KeyError: one is not pinned.
    """
    stated = _stated()
    return {package: stated[package] for package in PACKAGES}


def onnxruntime_gpu() -> str:
    """ONNX Runtime's CUDA build in the version of the other one that constraints.txt has."""
    return _stated()["onnxruntime"].replace("onnxruntime", "onnxruntime-gpu")


def _stated() -> dict[str, str]:
    lines = (line.split(";")[0].strip() for line in _CONSTRAINTS.read_text().splitlines())
    return {line.partition("==")[0].lower().replace("_", "-"): line for line in lines if "==" in line}

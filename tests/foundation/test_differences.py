"""Two records' differences: of what decides the numbers, worst first, each with its reason and whom it concerns."""

import copy
import json

import onnxruntime  # noqa: F401 - loaded, so that it tells its build
import pytest
import torch  # noqa: F401 - the same
from hypothesis import given, settings
from hypothesis import strategies as st

from foundation.differences import by_severity, differences
from foundation.environment import environment
from foundation.severity import CUDA, ONNX, OPERATIONS, PT2, RESTART, TORCHSCRIPT, TRAINING, WORST_FIRST

PYTORCH = (TORCHSCRIPT, PT2, TRAINING)


@pytest.fixture(scope="module")
def here():
    """This machine's record."""
    return environment()


def changed(record, path, value):
    other = copy.deepcopy(record)
    place = other
    for name in path[:-1]:
        place = place.setdefault(name, {})
    place[path[-1]] = value
    return other


def test_one_machine_does_not_differ_from_itself(here):
    """Nothing differs between two records of one process, also after JSON."""
    assert differences(json.loads(json.dumps(here)), here) == ()


@pytest.mark.parametrize(
    ("path", "there", "kind", "fact", "concerns"),
    [
        (("torch", "types", "get_default_dtype"), "torch.float64", "seeds and types", "torch.get_default_dtype", PYTORCH),
        (("seeds", "torch.initial_seed"), -1, "seeds and types", "torch.initial_seed", (RESTART,)),
        (
            ("torch", "precision", "backends.cudnn.allow_tf32"),
            "maybe",
            "precision",
            "torch.backends.cudnn.allow_tf32",
            (CUDA, TRAINING),
        ),
        (("torch", "precision", "get_x"), "low", "precision", "torch.get_x", PYTORCH),
        (("variables", "NVIDIA_TF32_OVERRIDE"), "0", "precision", "NVIDIA_TF32_OVERRIDE", (CUDA, TRAINING)),
        (("variables", "ONEDNN_DEFAULT_FPMATH_MODE"), "BF16", "precision", "ONEDNN_DEFAULT_FPMATH_MODE", PYTORCH),
        (("gpus",), [{"name": "NVIDIA L4"}], "GPU", "GPUs", (CUDA, TRAINING)),
        (("packages", "onnxruntime"), "1.2.0", "engine", "onnxruntime", (ONNX,)),
        (("packages", "torch"), "2.10.0", "engine", "torch", PYTORCH),
        (("packages", "pillow"), "9", "libraries of the data", "pillow", (OPERATIONS, TRAINING)),
        (("torch", "cuda"), "12.6", "CUDA libraries", "torch.cuda", (CUDA, TRAINING)),
        (("torch", "cpu_capability"), "NONE", "kernels", "torch.cpu_capability", PYTORCH),
        (("torch", "kernels", "backends.mkldnn.enabled"), "no", "kernels", "torch.backends.mkldnn.enabled", PYTORCH),
        (("variables", "ONEDNN_MAX_CPU_ISA"), "SSE41", "kernels", "ONEDNN_MAX_CPU_ISA", PYTORCH),
        (("torch", "build", "blas"), "eigen", "build", "torch.build.blas", PYTORCH),
        (("threads", "torch.get_num_threads"), 96, "threads", "torch.get_num_threads", PYTORCH),
        (("cores",), 96, "threads", "cores", (ONNX,)),
        (("variables", "PYTHONHASHSEED"), "3", "determinism", "PYTHONHASHSEED", (CUDA, TRAINING)),
        (("cpu",), "Another", "processor", "cpu", (ONNX, *PYTORCH)),
        (("packages", "numpy"), "1.26.0", "NumPy", "numpy", (TRAINING,)),
        (("os", "libc"), "glibc 2.17", "system", "os.libc", (ONNX, *PYTORCH)),
        (("git",), {"commit": "a" * 40}, None, None, None),
    ],
)  # fmt: skip
def test_one_fact_differs(here, path, there, kind, fact, concerns):  # noqa: PLR0917
    """It is named as a person sets or reads it, with whose numbers depend on it; what one record lacks is no difference."""
    if fact == "torch.get_x":
        here = changed(here, path, "high")
    found = differences(changed(here, path, there), here)

    assert [(one.kind, one.fact, one.concerns) for one in found] == ([] if kind is None else [(kind, fact, concerns)])


def test_the_line(here):
    """Both values, and why it matters."""
    here = changed(here, ("packages", "torch"), "2.13.0")
    (found,) = differences(changed(here, ("packages", "torch"), "2.10.0"), here)

    assert str(found) == "torch: 2.10.0 there, 2.13.0 here; another version has other kernels, other fusions and other faults"
    assert found.to_json()["concerns"] == ["torchscript", "pt2", "training"]
    json.dumps(found.to_json())


def test_the_worst_stands_first(here):
    """Facts of every severity at once come in the order of the severities."""
    there = changed(here, ("os", "libc"), "glibc 2.17")
    for path in (("cores",), ("packages", "torch"), ("packages", "numpy"), ("cpu",)):
        there = changed(there, path, 7)
    there = changed(there, ("torch", "precision", "get_float32_matmul_precision"), "medium")
    found = differences(there, here)

    assert [one.kind for one in found] == ["precision", "engine", "threads", "processor", "NumPy", "system"]
    assert [one.severity for one in found] == sorted(one.severity for one in found)
    assert [WORST_FIRST[one.severity - 1].name for one in found] == [one.kind for one in found]


def test_instruction_sets(here):
    """Of long lists, what one has and the other has not."""
    there = {**here, "isa": ["avx2", "fma", "x" * 80]}
    this = {**here, "isa": ["avx2", "fma"]}
    (found,) = differences(there, this)

    assert (found.there, found.here) == (f"also {'x' * 60}…", "no more")


def test_one_library_in_two_packages(here):
    """onnxruntime and onnxruntime-gpu are one engine: its version is compared, whichever brought it."""
    there = copy.deepcopy(here)
    there["packages"]["onnxruntime-gpu"] = there["packages"].pop("onnxruntime")

    assert differences(there, here) == ()


def test_records_of_the_first_form(here):
    """What they tell is compared; variables that they did not record are not taken for unset."""
    first = {name: here[name] for name in ("python", "system", "cpu", "isa", "cores", "packages", "variables")}
    set_here = {**here, "variables": {"GLIBC_TUNABLES": "x", "OMP_NUM_THREADS": "3"}}

    assert differences(first, here) == ()
    assert [one.fact for one in differences(first, set_here)] == ["OMP_NUM_THREADS"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["isa", "packages", "torch", "variables", "name", "onnxruntime", "build"]), inner, max_size=4
        )
    ),
    max_leaves=12,
)


@settings(deadline=None, max_examples=40)
@given(st.dictionaries(st.sampled_from(["isa", "packages", "torch", "variables", "gpus", "os", "git"]), JSON))
def test_anything_as_a_record(here, record):
    """A record from a file of others, whatever it holds: no error, and no value longer than a line."""
    for found in (*differences(record, here), *differences(here, record)):
        assert max(len(found.there), len(found.here)) < 80


def test_every_fact_once(here):
    """A record told by severity has every fact of the order, once."""
    told = [name for _, facts in by_severity(here) for name in facts]

    assert len(told) == len(set(told))
    assert {"torch", "onnxruntime", "cpu", "torch.get_num_threads", "torch.build.mkl"} <= set(told)

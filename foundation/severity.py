"""In which order differences between machines matter, and to whose numbers: the worst first, each with its reason.

docs/environment.md has the sizes that were measured, and what is not on this list.
"""

from dataclasses import dataclass

TRAINING = "training"
RESTART = "a training from its start"
ONNX, TORCHSCRIPT, PT2 = "onnx", "torchscript", "pt2"
CUDA = "CUDA"
OPERATIONS = "operations"

_PYTORCH = (TORCHSCRIPT, PT2, TRAINING)
_EVERY = (ONNX, *_PYTORCH)
_ON_GPU = (CUDA, TRAINING)
_OPERATIONS_PACKAGES = ("pillow", "tokenizers")
_DATA_PACKAGES = ("opencv-python", "opencv-python-headless", "torchaudio", "torchvision", "transformers")
_LOOP_PACKAGES = ("accelerate", "lightning", "pytorch-lightning", "scikit-learn", "scipy", "timm")


@dataclass(frozen=True, slots=True)
class Severity:
    """Facts of one severity: `facts` are their names (`NAME*`: all that start so), with whose numbers depend on them.

    Concerned are engines by name, `CUDA` (whatever runs there), declared `operations`, a training that goes on, or one only if it
    begins anew.
    """

    name: str
    why: str
    facts: tuple[tuple[str, tuple[str, ...]], ...]


WORST_FIRST = (
    Severity(
        "code",
        "another program: what it computes is not known",
        (("git.commit", (TRAINING,)), ("git.dirty", (TRAINING,))),
    ),
    Severity(
        "seeds and types",
        "other random numbers, or another type: another training from its first step",
        (("seeds.*", (RESTART,)), ("torch.types.*", _PYTORCH)),
    ),
    Severity(
        "precision",
        "float32 is computed with fewer bits: errors of 1e-3",
        (
            ("torch.precision.backends.cuda.*", _ON_GPU),
            ("torch.precision.backends.cudnn.*", _ON_GPU),
            ("torch.precision.*", _PYTORCH),
            ("variables.precision.NVIDIA*", _ON_GPU),
            ("variables.precision.TORCH*", _ON_GPU),
            ("variables.precision.*", _PYTORCH),
        ),
    ),
    Severity(
        "GPU",
        "another processor has other algorithms, which add in another order",
        (("GPUs", _ON_GPU), ("torch.hip", _ON_GPU)),
    ),
    Severity(
        "engine",
        "another version has other kernels, other fusions and other faults",
        (("onnxruntime", (ONNX,)), ("packages.torch", _PYTORCH), ("packages.triton", _ON_GPU)),
    ),
    Severity(
        "libraries of the data",
        "the same file, decoded, resized or split into tokens, may give other inputs",
        (
            *((f"packages.{name}", (OPERATIONS, TRAINING)) for name in _OPERATIONS_PACKAGES),
            *((f"packages.{name}", (TRAINING,)) for name in (*_DATA_PACKAGES, *_LOOP_PACKAGES)),
        ),
    ),
    Severity(
        "CUDA libraries",
        "cuBLAS and cuDNN choose among other algorithms",
        (("torch.cuda", _ON_GPU), ("torch.cudnn", _ON_GPU), ("gpu_driver", _ON_GPU)),
    ),
    Severity(
        "kernels",
        "kernels of other instruction sets add in another order",
        (
            ("system", (*_EVERY, CUDA)),
            ("instruction sets", _EVERY),
            ("torch.cpu_capability", _PYTORCH),
            ("torch.kernels.backends.cuda.*", _ON_GPU),
            ("torch.kernels.backends.cudnn.*", _ON_GPU),
            ("torch.kernels.*", _PYTORCH),
            ("variables.kernels.*", _PYTORCH),
        ),
    ),
    Severity(
        "build",
        "the same version with other libraries, or from another compiler",
        (
            ("torch.commit", _PYTORCH),
            ("torch.build.*", _PYTORCH),
            ("onnxruntime.commit", (ONNX,)),
            ("onnxruntime.build", (ONNX,)),
        ),
    ),
    Severity(
        "threads",
        "sums are cut into other pieces",
        (("threads.torch.get_num_threads", _PYTORCH), ("variables.threads.*", _PYTORCH), ("cores", (ONNX,))),
    ),
    Severity(
        "determinism",
        "the order of some sums is free, and changes from run to run",
        (
            ("torch.determinism.backends.mkldnn.*", _PYTORCH),
            ("torch.determinism.*", _ON_GPU),
            ("variables.determinism.*", _ON_GPU),
        ),
    ),
    Severity(
        "processor",
        "with equal instruction sets, only its caches' sizes cut sums in another way",
        (("cpu", _EVERY), ("cpu_id", _EVERY)),
    ),
    Severity(
        "NumPy",
        "what a training computes outside PyTorch",
        (("packages.numpy", (TRAINING,)), ("numpy.*", (TRAINING,))),
    ),
    Severity(
        "system",
        "the C library's exp and tanh, in their last bit",
        (("os.libc", _EVERY), ("os.name", (TRAINING,)), ("python", (TRAINING,))),
    ),
)

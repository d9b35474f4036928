"""The kinds of things that training, downloads and other tools leave where a checkpoint is expected, and the words for each."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path


class Kind(StrEnum):
    """What a path is. The first group holds weights that we read; the others are named and refused."""

    TORCH_ZIP = "torch-zip"
    TORCH_LEGACY = "torch-legacy"
    SAFETENSORS = "safetensors"
    SHARD_INDEX = "shard-index"
    HF_FOLDER = "hf-folder"
    ACCELERATE_FOLDER = "accelerate-folder"

    TORCH_TAR = "torch-tar"
    TORCHSCRIPT = "torchscript"
    PT2 = "pt2"
    MAR = "mar"
    PICKLE = "pickle"
    GGUF = "gguf"
    HDF5 = "hdf5"
    KERAS = "keras"
    NPY = "npy"
    NPZ = "npz"
    ONNX = "onnx"
    TFLITE = "tflite"
    ZIP = "zip"
    TAR = "tar"
    COMPRESSED = "compressed"
    LFS_POINTER = "lfs-pointer"
    WEB_PAGE = "web-page"
    JSON = "json"
    EMPTY = "empty"
    TRUNCATED_ZIP = "truncated-zip"
    ADAPTER_FOLDER = "adapter-folder"
    DEEPSPEED_FOLDER = "deepspeed-folder"
    DCP_FOLDER = "dcp-folder"
    FSDP_FOLDER = "fsdp-folder"
    TNT_FOLDER = "tnt-folder"
    KEEPER_FOLDER = "keeper-folder"
    ORBAX_FOLDER = "orbax-folder"
    SAVED_MODEL_FOLDER = "saved-model-folder"
    TF_CHECKPOINT_FOLDER = "tf-checkpoint-folder"
    FOLDER = "folder"
    UNKNOWN = "unknown"


READABLE = frozenset(
    {Kind.TORCH_ZIP, Kind.TORCH_LEGACY, Kind.SAFETENSORS, Kind.SHARD_INDEX, Kind.HF_FOLDER, Kind.ACCELERATE_FOLDER}
)
"""The kinds that `read` reads."""


@dataclass(frozen=True, slots=True)
class Recognised:
    """What a path was found to be.

    `summary` completes "<name> is …"; `remedy` says what to do with it, as one or two sentences. `size_bytes` is of the file,
    or of all files in the folder.
    """

    path: Path
    kind: Kind
    size_bytes: int
    summary: str
    remedy: str


READ_IT = "Nothing to do: it can be read."
RESAVE = 'torch.save(model.state_dict(), "weights.pth")'

WORDS: dict[Kind, tuple[str, str]] = {
    Kind.TORCH_ZIP: ("a torch.save file (zip)", READ_IT),
    Kind.TORCH_LEGACY: ("a torch.save file in the format from before torch 1.6", READ_IT),
    Kind.SAFETENSORS: ("a safetensors file", READ_IT),
    Kind.SHARD_INDEX: ("the index of a sharded checkpoint", READ_IT),
    Kind.TORCHSCRIPT: (
        "a TorchScript program, not a checkpoint",
        f"Save the weights where the model is defined: {RESAVE}.",
    ),
    Kind.PT2: (
        "an exported program (.pt2), not a checkpoint",
        f"Give the checkpoint that it was exported from, or save the weights where the model is defined: {RESAVE}.",
    ),
    Kind.MAR: (
        "a TorchServe model archive (.mar), not a checkpoint",
        'Unzip it and give the file that "serializedFile" in MAR-INF/MANIFEST.json names.',
    ),
    Kind.PICKLE: (
        "a plain pickle, not a torch.save file",
        'Reading it could run code. Load it where it was made and save its tensors: torch.save(state_dict, "weights.pth").',
    ),
    Kind.TORCH_TAR: (
        "a torch.save file in the tar format of torch 0.1",
        'Load it with its own torch and save it again: torch.save(torch.load(old), "weights.pth").',
    ),
    Kind.TAR: ("a tar archive", "Unpack it and give the checkpoint inside."),
    Kind.ZIP: ("a zip archive without a checkpoint's members", "Unpack it and give the checkpoint inside."),
    Kind.COMPRESSED: (
        "a compressed file (an archive, or a pickle that joblib compressed)",
        "Decompress it and give what is inside.",
    ),
    Kind.GGUF: ("a GGUF file (llama.cpp, quantised for inference)", "Give the safetensors or torch file that it was made from."),
    Kind.HDF5: ("an HDF5 file (Keras, or data)", "Convert its weights to safetensors in the framework that wrote it."),
    Kind.KERAS: ("a Keras model (.keras)", "Convert its weights to safetensors in Keras."),
    Kind.NPY: ("a NumPy array (.npy)", "Save the weights by name with safetensors.numpy.save_file."),
    Kind.NPZ: ("NumPy arrays (.npz)", "Save them by name: safetensors.numpy.save_file(dict(numpy.load(path)), new)."),
    Kind.ONNX: ("an ONNX model, not a checkpoint", "Give the checkpoint that it was exported from."),
    Kind.TFLITE: ("a TensorFlow Lite model, not a checkpoint", "Give the checkpoint that it was converted from."),
    Kind.LFS_POINTER: ("a Git LFS pointer, not the model itself", "Fetch the model: git lfs pull."),
    Kind.JSON: ("a JSON file, not a checkpoint", "Give the weights' file, or the folder that holds both."),
    Kind.UNKNOWN: ("of no kind that we know", "Give a file made by torch.save or safetensors."),
}
"""Kind -> (what completes "<name> is …", what to do), where they need no look at the file."""

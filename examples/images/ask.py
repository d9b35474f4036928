"""Asks a server about every held-out picture, and compares its answers with PyTorch's.

    python examples/images/ask.py [FOLDER] [--port 8080]

FOLDER is the training's. Each picture is sent as the file that it is; PyTorch is given what the training's own `prepare` makes of
it. Ends with 0 only if both tell the same digits, with the same probabilities.
"""

import argparse
import contextlib
import http.client
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from pictures import pictures
from train import KEPT, prepared, probabilities

import checkpoints
import model_defs

TOLERANCE = 1e-5
"""How far a probability of the server may be from PyTorch's: another engine rounds otherwise (docs/export.md)."""


def main(directory: Path, port: int, count: int | None = None) -> int:
    """Asks about the first `count`, or all, and compares; the exit code says whether all answers are equal."""
    _, _, test = pictures(drawings=0)
    files, labels = test.files[:count], test.labels[:count]
    names = Path(__file__).with_name("labels.txt").read_text("utf-8").split()
    started = time.perf_counter()
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
        answers = [ask(connection, file) for file in files]
    seconds = time.perf_counter() - started
    model = model_defs.build("resnet18", {"num_classes": 10})
    model.load_state_dict(checkpoints.read(directory / "best.pth").select(None).tensors)
    in_pytorch = probabilities(model, prepared(files))
    told = [names.index(answer[0]["label"]) for answer in answers]
    differences = [
        abs(one["probability"] - row[names.index(one["label"])].item())
        for answer, row in zip(answers, in_pytorch, strict=True)
        for one in answer
    ]
    print(f"{len(told)} held-out pictures, {len(told) / seconds:.0f} requests/s, one connection")
    print(f"accuracy over HTTP  {(np.array(told) == labels).mean():.4f}")
    print(f"accuracy in PyTorch {(in_pytorch.argmax(1).numpy() == labels).mean():.4f}")
    equal = told == in_pytorch.argmax(1).tolist() and max(differences) <= TOLERANCE
    print(f"{'equal' if equal else 'NOT EQUAL'}: probabilities within {max(differences):.1e}")
    return 0 if equal else 1


def ask(connection: http.client.HTTPConnection, file: bytes) -> list[dict[str, Any]]:
    """The server's three most probable labels for one picture."""
    connection.request("POST", "/predictions/pictures", file, {"Content-Type": "image/jpeg"})
    return json.loads(connection.getresponse().read())["predictions"][0]


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("directory", nargs="?", type=Path, default=KEPT)
    arguments.add_argument("--port", type=int, default=8080)
    given = arguments.parse_args()
    sys.exit(main(given.directory, given.port))

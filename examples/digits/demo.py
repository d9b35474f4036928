"""The whole way on real data: train, export, serve, ask about every held-out digit over HTTP, and compare with PyTorch.

    python examples/digits/demo.py

Ends with 0 only if the accuracy over HTTP equals PyTorch's own, and leaves no process behind.
"""

import contextlib
import http.client
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from train import BEST, accuracy, digits, train

import checkpoints
import model_defs

READY_TIMEOUT_S = 60.0


def main() -> int:
    """Runs the demo; the exit code says whether the two accuracies are equal."""
    print(f"1. train: validation accuracy {train(BEST):.4f}, saved as {BEST.name}")
    print("2. export: python -m export --ckpt examples/digits/best.pth")
    exported = subprocess.run(
        [sys.executable, "-m", "export", "--ckpt", str(BEST)], check=True, stdout=subprocess.PIPE, text=True
    )
    print(f"   {exported.stdout.strip()}")
    _, _, test = digits()
    port = free_port()
    print(f"3. serve: python -m serving --port {port}")
    with server(port):
        print(f"4. ask: {len(test.labels)} held-out digits, one request each")
        started = time.perf_counter()
        predictions = ask(port, test.images).argmax(1)
        seconds = time.perf_counter() - started
    show(test.images[:5], test.labels[:5], predictions[:5])
    over_http = (predictions == test.labels).double().mean().item()
    model = model_defs.build("digits_cnn", {})
    model.load_state_dict(checkpoints.read(BEST).select(None).tensors)
    in_pytorch = accuracy(model, test)
    print(f"accuracy over HTTP  {over_http:.4f}  ({len(test.labels) / seconds:.0f} requests/s, one connection)")
    print(f"accuracy in PyTorch {in_pytorch:.4f}")
    print("equal" if over_http == in_pytorch else "NOT EQUAL")
    return 0 if over_http == in_pytorch else 1


def free_port() -> int:
    """A loopback port that nobody listens on at present, nor on the two after it: the server opens three."""
    while True:
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError, OverflowError):  # a neighbour is taken
            first, *others = (stack.enter_context(socket.socket()) for _ in range(3))
            first.bind(("127.0.0.1", 0))
            port: int = first.getsockname()[1]
            for number, other in enumerate(others, start=1):
                other.bind(("127.0.0.1", port + number))
            return port


@contextlib.contextmanager
def server(port: int, repository: Path = Path("model_repository")) -> Iterator[None]:
    """A server that is ready; ended, and waited for, at the end."""
    process = subprocess.Popen([sys.executable, "-m", "serving", "--repository", str(repository), "--port", str(port)])
    try:
        wait_until_ready(process, port)
        yield
    finally:
        process.terminate()
        process.wait(timeout=READY_TIMEOUT_S)


def wait_until_ready(process: subprocess.Popen[bytes], port: int) -> None:
    """Asks /v2/health/ready until it says 200: the server listens before its models are loaded, and says 503 meanwhile.

    Raises:
        SystemExit: the server ended, or the time is up; with the last reason that it gave.
    """
    reason = "it did not answer"
    deadline = time.monotonic() + READY_TIMEOUT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise SystemExit(f"the server ended with exit code {process.returncode}")
        with (
            contextlib.suppress(OSError),
            contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=5)) as connection,
        ):
            connection.request("GET", "/v2/health/ready")
            answer = connection.getresponse()
            if answer.status == http.HTTPStatus.OK:
                return
            reason = answer.read().decode()
        time.sleep(0.1)
    raise SystemExit(f"the server was not ready after {READY_TIMEOUT_S:g} s: {reason}")


def ask(port: int, images: torch.Tensor) -> torch.Tensor:
    """The server's logits (N, 10) for images (N, 1, 8, 8), one request each."""
    found = []
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
        for image in images:
            connection.request("POST", "/predictions/digits", json.dumps({"inputs": {"image": [image.tolist()]}}))
            found.append(json.loads(connection.getresponse().read())["outputs"]["logits"][0])
    return torch.tensor(found)


def show(images: torch.Tensor, labels: torch.Tensor, predictions: torch.Tensor) -> None:
    """Prints digits side by side, each with its label and the prediction."""
    shades = " .:-=+*#%@"
    for row in range(images.shape[2]):
        print("   ".join("".join(shades[int(value * 9)] * 2 for value in image[0, row]) for image in images))
    print(
        "   ".join(
            f"is {label}, told {told}".ljust(16) for label, told in zip(labels.tolist(), predictions.tolist(), strict=True)
        )
    )


if __name__ == "__main__":
    sys.exit(main())

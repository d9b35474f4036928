"""Calls the handler of an unpacked .mar as TorchServe's Python worker does. It imports nothing of this project.

A line of JSON on stdin says where the archive lies, its name, the GPU (or null) and the bodies of one batch; one on stdout has
the answers' outputs, the seconds that loading and one batch took, the device, and what was taken of its memory.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

_BATCHES = 5


class Context:
    """What TorchServe tells a handler of its model, and of the requests of a batch."""

    def __init__(self, directory: Path, name: str, gpu: int | None) -> None:
        self.model_name = name
        self.manifest = json.loads((directory / "MAR-INF" / "MANIFEST.json").read_text())
        self.system_properties = {"model_dir": str(directory), "gpu_id": gpu}
        self.statuses: dict[int, int] = {}

    def get_all_request_header(self, _index: int) -> dict[str, str]:
        """The headers of one request."""
        return {"content-type": "application/json"}

    def get_request_id(self, index: int) -> str:
        """The id of one request."""
        return f"request-{index}"

    def set_response_status(self, code: int = 200, idx: int = 0, **_more: Any) -> None:
        """The status of one answer."""
        self.statuses[idx] = code

    def set_response_header(self, _index: int, _name: str, _value: str) -> None:
        """A header of one answer."""


def main() -> None:
    """Loads, answers a batch several times, and says the answers of the last."""
    told = json.loads(sys.stdin.readline())
    directory = Path(told["directory"])
    sys.path[:] = [str(directory), *(path for path in sys.path if path != str(Path(__file__).parent))]
    began_s = time.perf_counter()
    from stateserve_handler import StateserveHandler  # type: ignore[import-not-found]

    handler, context = StateserveHandler(), Context(directory, told["name"], told["gpu"])
    handler.initialize(context)
    start_s = time.perf_counter() - began_s
    data = [{"body": body.encode()} for body in told["bodies"]]
    answers, seconds = [], 0.0
    for _ in range(_BATCHES):
        began_s = time.perf_counter()
        answers = handler.handle(data, context)
        seconds = time.perf_counter() - began_s
    wrong = {status for status in context.statuses.values() if status != 200}
    if wrong:
        sys.exit(f"the handler answered {sorted(wrong)}: {answers[0][:500]!r}")
    outputs = [json.loads(answer)["outputs"] for answer in answers]
    sys.stdout.write(json.dumps({"answers": outputs, "seconds": seconds, "start_s": start_s, **_device(told["gpu"])}) + "\n")


def _device(gpu: int | None) -> dict[str, Any]:
    """The device, and what PyTorch took of its memory: none where ONNX Runtime ran the model."""
    if gpu is None:
        return {"device": "cpu", "device_bytes": 0}
    torch = sys.modules.get("torch")
    taken = 0 if torch is None or not torch.cuda.is_initialized() else torch.cuda.max_memory_allocated(gpu)
    return {"device": f"cuda:{gpu}", "device_bytes": taken}


if __name__ == "__main__":
    main()

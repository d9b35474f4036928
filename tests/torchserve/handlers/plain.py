"""A class of its own, with no base: what it answers is for the request to say, `{"give": ..., ...}`."""

import os
import signal
from pathlib import Path

import torch
from ts.handler_utils.utils import send_intermediate_predict_response
from ts.utils.util import PredictionException


def give(what, wish):
    """A value of the kind that is asked for."""
    return {
        "bytes": lambda: bytes(range(256)),
        "bytearray": lambda: bytearray(b"a bytearray"),
        "str": lambda: "grüße",
        "tensor": lambda: torch.arange(3.0),
        "value": lambda: wish["value"],
        "nan": lambda: [float("nan"), float("inf")],
        "tuple": lambda: (1, "two"),
        "keys": lambda: {2: "two", None: "none", True: "true"},
        "set": lambda: {1},
        "object": object,
        "large": lambda: b"x" * wish["bytes"],
    }[what]()


def fail(what, wish):
    """Fails in the way that is asked for."""
    if what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "exit":
        os._exit(wish["code"])
    failure = {
        "memory": lambda: MemoryError("too much"),
        "cuda": lambda: RuntimeError("CUDA error: device-side assert triggered"),
        "error": lambda: ValueError("a secret of the handler"),
        "prediction": lambda: PredictionException(wish["message"], wish["code"]),
        "prediction default": lambda: PredictionException(wish["message"]),
        "system exit": lambda: SystemExit(3),
        "keyboard": KeyboardInterrupt,
    }[what]()
    raise failure


class Plain:
    """Answers as it is asked to."""

    def __init__(self):
        self.properties = {}

    def initialize(self, context):
        """Keeps what the server says of itself."""
        self.properties = context.system_properties

    def handle(self, data, context):
        """The wish of the first request may be one about the whole answer."""
        wishes = [row["body"] for row in data]
        if "fail" in wishes[0]:
            fail(wishes[0]["fail"], wishes[0])
        whole = {
            "short": [],
            "long": ["one", "two"],
            "none": None,
            "dict": {"a": 1},
            "text": "a text",
            "tuple": ("one",),
            "tensor": torch.arange(1.0),
        }
        if "whole" in wishes[0]:
            return whole[wishes[0]["whole"]]
        return [self.answer(number, wish, context) for number, wish in enumerate(wishes)]

    def answer(self, number, wish, context):
        """One request's answer."""
        if "status" in wish:
            context.set_response_status(wish["status"], wish.get("phrase", ""), number)
        if "all" in wish:
            context.set_all_response_status(wish["all"], wish.get("phrase", ""))
        if "type" in wish:
            context.set_response_content_type(number, wish["type"])
        for name, value in wish.get("headers", {}).items():
            context.set_response_header(number, name, value)
        for part in wish.get("stream", []):
            send_intermediate_predict_response([part], context.request_ids, "Intermediate", 200, context)
        if "ask" in wish:
            return self.asked(wish["ask"], number, context)
        return give(wish.get("give", "value"), {"value": "done", **wish})

    def asked(self, what, number, context):
        """What the handler is told."""
        return {
            "properties": lambda: {**self.properties, "model_dir": Path(self.properties["model_dir"]).is_dir()},
            "manifest": lambda: {**context.manifest, "createdOn": ""},
            "config": lambda: context.model_yaml_config,
            "request id": lambda: [context.get_request_id(number) == context.request_ids[number], len(context.request_ids)],
            "files": lambda: sorted(path.name for path in Path(self.properties["model_dir"]).iterdir()),
            "directory": lambda: Path.cwd().samefile(self.properties["model_dir"]),
            "environment": lambda: {
                name: os.environ.get(name) for name in ("SECRET_OF_OURS", "OPEN_VARIABLE", "TS_DECODE_INPUT_REQUEST")
            },
        }[what]()

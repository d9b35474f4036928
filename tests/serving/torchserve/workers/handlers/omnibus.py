"""A class with initialize and handle: it does what each request's body says."""
# ruff: noqa: ARG002 - a handler's steps have all the same parameters

import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch
from ts.handler_utils.utils import send_intermediate_predict_response
from ts.utils.util import PredictionException


class Omnibus:
    def initialize(self, context):
        self.context = context
        self.initialized = True

    def handle(self, data, context):
        if context.get_request_header(0, "describe") == "True":
            return [{"described": True}]
        asked = [self.words(row) for row in data]
        word, argument = asked[0]
        if hasattr(self, f"whole_{word}"):
            return getattr(self, f"whole_{word}")(data, argument)
        return [
            getattr(self, f"one_{word}", self.one_echo)(index, argument or word, row)
            for (index, row), (word, argument) in zip(enumerate(data), asked, strict=True)
        ]

    @staticmethod
    def words(row):
        body = row.get("body", row.get("data"))
        word, _, argument = body.partition(" ") if isinstance(body, str) else ("", "", "")
        return word, argument

    def one_echo(self, index, argument, row):
        return {"echo": row["body"], "batch": len(self.context.request_ids)}

    def one_status(self, index, argument, row):
        self.context.set_response_status(int(argument), "As Told", index)
        self.context.set_response_content_type(index, "text/x-told")
        self.context.set_response_header(index, "dummy", "1")
        return f"status {argument}"

    def one_bytes(self, index, argument, row):
        return bytes(range(256))

    def one_tensor(self, index, argument, row):
        return torch.ones(2)

    def one_header(self, index, argument, row):
        return json.dumps([self.context.get_request_header(index, argument), self.context.get_all_request_header(index)])

    def one_row(self, index, argument, row):
        return {name: [type(value).__name__, str(value)] for name, value in row.items()}

    def one_context(self, index, argument, row):
        context = self.context
        facts = {**context.system_properties, "name": context.model_name, "yaml": context.model_yaml_config}
        return {**facts, "id": context.get_request_id(index), "manifest": context.manifest["model"]["handler"]}

    def one_process(self, index, argument, row):
        return {"cwd": str(Path.cwd()), "path": sys.path, "environment": dict(os.environ), "argv": sys.argv}

    def one_child(self, index, argument, row):
        return {"pid": subprocess.Popen(["sleep", "600"]).pid}

    def whole_memory(self, data, argument):
        raise MemoryError

    def whole_cuda(self, data, argument):
        raise RuntimeError("CUDA error: out of everything")

    def whole_raise(self, data, argument):
        try:
            {}["cause"]
        except KeyError as cause:
            raise ValueError(f"because of {argument}\n\tand a second line") from cause

    def whole_prediction(self, data, argument):
        raise PredictionException("as the handler says", int(argument))

    def whole_length(self, data, argument):
        return ["x"] * (len(data) + 1)

    def whole_dict(self, data, argument):
        return {"not": "a list"}

    def whole_unserialisable(self, data, argument):
        return [object()] * len(data)

    def whole_sleep(self, data, argument):
        time.sleep(float(argument))
        return ["slept"] * len(data)

    def whole_print(self, data, argument):
        for number in range(int(argument)):
            print(f"line {number} {'x' * 100}")
        logging.getLogger("of.the.handler").info("logged by the handler")
        return ["printed"] * len(data)

    def whole_metric(self, data, argument):
        self.context.metrics.add_counter("Wanted", 3)
        return ["counted"] * len(data)

    def whole_kill(self, data, argument):
        os.kill(os.getpid(), getattr(signal, argument))

    def whole_exit(self, data, argument):
        os._exit(int(argument))

    def whole_stream(self, data, argument):
        for number in range(int(argument)):
            parts = [f"{index}:{number} " for index in range(len(data))]
            send_intermediate_predict_response(
                parts, self.context.request_ids, "Intermediate Prediction success", 200, self.context
            )
        return [f"{index}:end" for index in range(len(data))]

    def whole_streamfail(self, data, argument):
        self.whole_stream(data, argument)
        raise ValueError("in the middle")

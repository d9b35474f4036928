"""A class with initialize and handle: it does what each request's body says."""

import json
import logging
import os
import signal
import subprocess
import sys
import time

from ts.handler_utils.utils import send_intermediate_predict_response
from ts.utils.util import PredictionException


class Omnibus:
    def initialize(self, context):
        self.context = context
        self.initialized = True

    def handle(self, data, context):
        if context.get_request_header(0, "describe") == "True":
            return [{"described": True}]
        words = [row.get("body", row.get("data")) for row in data]
        words = [word.decode() if isinstance(word, (bytes, bytearray)) else word for word in words]
        first, _, argument = words[0].partition(" ") if isinstance(words[0], str) else ("json", "", "")
        whole = getattr(self, f"whole_{first}", None)
        if whole is not None:
            return whole(data, argument)
        return [self.one(index, word, data[index]) for index, word in enumerate(words)]

    def one(self, index, word, row):
        context = self.context
        first, _, argument = word.partition(" ") if isinstance(word, str) else ("json", "", "")
        if first == "status":
            context.set_response_status(int(argument), "As Told", index)
            context.set_response_content_type(index, "text/x-told")
            context.set_response_header(index, "dummy", "1")
            return f"status {argument}"
        if first == "bytes":
            return bytes(range(256))
        if first == "tensor":
            import torch

            return torch.ones(2)
        if first == "header":
            return json.dumps([context.get_request_header(index, argument), context.get_all_request_header(index)])
        if first == "row":
            return {name: [type(value).__name__, str(value)] for name, value in row.items()}
        if first == "context":
            facts = {**context.system_properties, "name": context.model_name, "yaml": context.model_yaml_config}
            return {**facts, "id": context.get_request_id(index), "manifest": context.manifest["model"]["handler"]}
        if first == "process":
            return {"cwd": os.getcwd(), "path": sys.path, "environment": dict(os.environ), "pid": os.getpid(), "argv": sys.argv}
        if first == "child":
            return {"pid": subprocess.Popen(["sleep", "600"]).pid}
        return {"echo": word, "batch": len(self.context.request_ids)}

    def whole_memory(self, data, argument):
        raise MemoryError

    def whole_cuda(self, data, argument):
        raise RuntimeError("CUDA error: out of everything")

    def whole_raise(self, data, argument):
        try:
            raise KeyError("cause")
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
            send_intermediate_predict_response(parts, self.context.request_ids, "Intermediate Prediction success", 200, self.context)
        return [f"{index}:end" for index in range(len(data))]

    def whole_streamfail(self, data, argument):
        self.whole_stream(data, argument)
        raise ValueError("in the middle")

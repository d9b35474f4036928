"""Answers what it was given, or as a JSON object in the request tells it to."""

import time
from pathlib import Path

from ts.handler_utils.utils import send_intermediate_predict_response


def handle(data, context):
    if data is None:
        return None
    return [answered(row, index, context) for index, row in enumerate(data)]


def answered(row, index, context):
    told = row.get("body")
    if not isinstance(told, dict):
        return {"inputs": {name: shown(value) for name, value in row.items()}, "headers": headers(index, context)}
    if "fails" in told:
        raise ValueError(told["fails"])
    if "status" in told:
        context.set_response_status(told["status"], "its own words", index)
    for name, value in told.get("headers", {}).items():
        context.set_response_header(index, name, value)
    if "type" in told:
        context.set_response_content_type(index, told["type"])
    for part in told.get("parts", ()):
        send_intermediate_predict_response([part], context.request_ids, "Intermediate Prediction success", 200, context)
    if "begun" in told:
        Path(told["begun"]).touch()
    while "until" in told and not Path(told["until"]).exists():
        time.sleep(0.01)
    return told.get("answer", "done")


def headers(index, context):
    return {name.lower(): value for name, value in context.get_all_request_header(index).items() if isinstance(value, str)}


def shown(value):
    return [type(value).__name__, value.decode("latin-1") if isinstance(value, (bytes, bytearray)) else value]

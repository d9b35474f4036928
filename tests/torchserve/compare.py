"""Compares answers with the kept ones of TorchServe, less what is known to differ."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tests.torchserve.differences import ADDED_HEADERS, DIFFERENCES, Difference


def expected(scenario: str, kept: Mapping[str, Any]) -> tuple[dict[str, Any], list[Difference]]:
    """The answer that this server is to give, and the differences that make it so."""
    found = [difference for difference in DIFFERENCES if difference.is_about(scenario, kept["request"])]
    answer = dict(kept)
    for difference in found:
        answer = difference.expected(answer)
    return answer, found


def mismatches(scenario: str, kept: Sequence[Mapping[str, Any]], ours: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Every answer that is neither TorchServe's nor known to differ; every known difference that there is not."""
    answers = {answer["request"]: answer for answer in ours}
    for answer in kept:
        wanted, differences = expected(scenario, answer)
        got = _without_added(answers.get(answer["request"]))
        if got != wanted:
            yield f"{answer['request']}\n  wanted {_short(wanted)}\n  got    {_short(got)}"
        elif differences and got == answer:
            yield f"{answer['request']}\n  is as TorchServe's; no longer so: {[difference.reason for difference in differences]}"


def _without_added(answer: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if answer is None:
        return None
    if "answers" in answer:
        return {**answer, "answers": [_without_added(each) for each in answer["answers"]]}
    if "headers" not in answer:
        return dict(answer)
    return {**answer, "headers": {name: value for name, value in answer["headers"].items() if name not in ADDED_HEADERS}}


def _short(answer: Mapping[str, Any] | None) -> str:
    if answer is None:
        return "no answer was asked for"
    return json.dumps({name: value for name, value in answer.items() if name != "request"}, ensure_ascii=False)

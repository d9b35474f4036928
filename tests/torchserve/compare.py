"""Compares answers with the kept ones of TorchServe, less what is known to differ."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tests.torchserve.differences import ADDED_HEADERS, ADDED_METRICS, DIFFERENCES, NOT_COMPARED, Difference

Answer = Mapping[str, Any]


def expected(scenario: str, kept: Answer) -> tuple[dict[str, Any], list[Difference]]:
    """The answer that this server is to give, and the differences that make it so."""
    answer, found = dict(kept), []
    for difference in DIFFERENCES:
        if difference.is_about(scenario, kept["request"]) and (ours := difference.expected(answer)) != answer:
            answer = ours
            found.append(difference)
    return compared(answer), found


def mismatches(scenario: str, kept: Sequence[Answer], ours: Sequence[Answer]) -> Iterator[str]:
    """Every answer that is neither TorchServe's nor what is known to differ from it."""
    answers = {answer["request"]: compared(answer) for answer in ours}
    for answer in kept:
        wanted, _ = expected(scenario, answer)
        got = answers.get(answer["request"])
        if got != wanted:
            yield f"{answer['request']}\n  wanted {_short(wanted)}\n  got    {_short(got)}"


def compared(answer: Answer) -> dict[str, Any]:
    """An answer without what is added to TorchServe's, and what is not compared."""
    if "answers" in answer:
        return {**answer, "answers": [compared(each) for each in answer["answers"]]}
    kept = {name: value for name, value in answer.items() if name not in NOT_COMPARED}
    if "headers" in kept:
        kept["headers"] = {name: value for name, value in kept["headers"].items() if name not in ADDED_HEADERS}
    if isinstance(kept.get("body"), dict) and "metrics" in kept["body"]:
        kept["body"] = {"metrics": [line for line in kept["body"]["metrics"] if not _is_added(line)]}
    return kept


def _is_added(line: str) -> bool:
    name = line.split()[2] if line.startswith("#") else line
    return name.startswith(ADDED_METRICS)


def _short(answer: Answer | None) -> str:
    if answer is None:
        return "no answer was asked for"
    return json.dumps({name: value for name, value in answer.items() if name != "request"}, ensure_ascii=False)

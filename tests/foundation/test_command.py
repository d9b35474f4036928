"""Every command ends with its error's message and exit code."""

import json

import pytest

from foundation.command import exit_codes
from foundation.errors import StateserveError


class Wrong(StateserveError):
    exit_code = 7


def test_a_message_and_a_code(capsys):
    """The message is printed as it is on stderr, and the error's code ends the process."""
    with pytest.raises(SystemExit) as caught, exit_codes(as_json=False):
        raise Wrong("the disk is full; free some")

    assert caught.value.code == 7
    assert capsys.readouterr() == ("", "error: the disk is full; free some\n")


def test_one_json_object(capsys):
    """With --json the error is the one JSON object on stdout."""
    with pytest.raises(SystemExit), exit_codes(as_json=True):
        raise Wrong("the disk is full")

    out, err = capsys.readouterr()
    assert (json.loads(out), err) == ({"error": {"type": "Wrong", "exit_code": 7, "message": "the disk is full"}}, "")


def test_other_errors_pass():
    """An error that nobody raised on purpose keeps its traceback."""
    with pytest.raises(ZeroDivisionError), exit_codes(as_json=False):
        _ = 1 / 0

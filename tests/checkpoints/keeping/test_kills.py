"""kill -9 in the middle of training: nothing torn, nothing lost, nothing left lying about."""

import json
import subprocess
import sys

import pytest


def kill(tmp_path, *arguments, timeout_s=120):
    """Runs the kills in a process of their own; what each kind of place came to."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.checkpoints.keeping.kills", "--within", str(tmp_path), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
    assert done.stdout, done.stderr
    outcomes = [json.loads(line) for line in done.stdout.splitlines()]
    for outcome in outcomes:
        assert outcome["faults"] == [], f"{outcome['faults']}\n{done.stderr}"
        assert sum(outcome["killed"].values()) >= outcome["times"]
        assert outcome["saved"] >= outcome["times"] / 2
        assert outcome["resumed"] >= outcome["times"] / 2
    assert done.returncode == 0, done.stderr
    return outcomes


def test_kills(tmp_path):
    """After each of 50 kills at random moments, latest and best load, and all that the policies keep is there, bit for bit."""
    kill(tmp_path, "--times", "50")


@pytest.mark.durability
def test_kills_without_links(tmp_path):
    """The same where the file system has neither links nor locks."""
    kill(tmp_path, "--times", "0", "--without-links-times", "30")


@pytest.mark.durability
def test_kill_before_every_call(tmp_path):
    """The same when it is killed before each call, in turn, that changes or flushes anything in the directory."""
    kill(tmp_path, "--times", "0", "--every-call")


@pytest.mark.durability
def test_kills_on_s3(tmp_path):
    """The same against an S3 server, with small files and with some that are sent in parts."""
    kill(tmp_path, "--times", "0", "--s3-times", "12", "--s3-parts-times", "5")

"""A directory is whole or not there, whoever is killed, whatever is full, however many write; equal values have equal bytes."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundation import storage

PROJECT = Path(__file__).parents[2]
FILES = {"a.bin": b"a" * 5000, "b.bin": b"b", "empty": b""}


def run(code, *args, wrap=(), **options):
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), **options.pop("env", {})}
    command = [*wrap, sys.executable, *([code] if code.endswith(".py") else ["-c", code]), *map(str, args)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False, **options)


def content(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_a_directory_is_written_whole(tmp_path):
    """Every file is there with its bytes, and nothing else is, also where the parents were not."""
    target = tmp_path / "repository" / "net" / "1"
    storage.write_directory(target, FILES)

    assert content(target) == FILES
    assert [path.name for path in target.parent.iterdir()] == ["1"]


@pytest.mark.parametrize(
    "make", [lambda path: (path.mkdir(), (path / "mine").write_bytes(b"1")), lambda path: path.write_bytes(b"1")]
)
def test_what_is_there_is_not_touched(tmp_path, make):
    """A directory with anything in it, or a file, in the target's place stays as it is."""
    target = tmp_path / "1"
    make(target)
    before = content(target) if target.is_dir() else target.read_bytes()

    with pytest.raises(FileExistsError) as caught:
        storage.write_directory(target, FILES)
    assert str(caught.value) == f"{target} is there already"
    assert (content(target) if target.is_dir() else target.read_bytes()) == before
    assert [path.name for path in tmp_path.iterdir()] == ["1"]


def test_an_empty_directory_holds_nothing(tmp_path):
    """An empty directory in the target's place is taken, as POSIX renames do: there is nothing in it to lose."""
    (tmp_path / "1").mkdir()
    storage.write_directory(tmp_path / "1", FILES)

    assert content(tmp_path / "1") == FILES


def test_a_file_is_never_written_over(tmp_path):
    """`write_file` makes a new file, or none."""
    (tmp_path / "a").write_bytes(b"before")

    with pytest.raises(FileExistsError):
        storage.write_file(tmp_path / "a", b"after")
    assert (tmp_path / "a").read_bytes() == b"before"


def test_killed_at_every_step(tmp_path):
    """A write that is killed before, in or after any step leaves nothing or the whole; the next one succeeds and cleans up."""
    done = run(str(Path(__file__).with_name("killed_writes.py")), tmp_path)
    kills = [json.loads(line) for line in done.stdout.splitlines()]

    assert done.returncode == 0, done.stderr
    assert {kill["found"] for kill in kills} == {"absent", "whole"}
    assert all(kill["again"] == ("written" if kill["found"] == "absent" else "exists") for kill in kills)
    assert all((kill["after"], kill["end"]) == (["1"], "whole") for kill in kills)
    # The loop did meet every kind of step, and did leave something to clean up.
    assert {kill["step"] for kill in kills} == {"mkdir", "os.open", "open", "write", "fsync", "rename", None}
    assert any(kill["left"] for kill in kills)
    for when in ("before", "half", "after"):
        steps = [kill for kill in kills if kill["when"] == when]
        assert [kill["n"] for kill in steps] == list(range(1, len(steps) + 1))
        assert len(steps) > 12
        assert [kill["found"] for kill in steps] == sorted(kill["found"] for kill in steps)  # once whole, always whole


def test_every_file_and_both_directories_are_flushed_before_and_after_the_rename(tmp_path, monkeypatch):
    """Files and their directory reach the disk before the rename makes them visible, the parent after it."""
    events = []
    fsync, rename = os.fsync, Path.rename

    def flushed(descriptor):
        events.append(Path(f"/proc/self/fd/{descriptor}").readlink().name.partition("-")[0])
        fsync(descriptor)

    def renamed(source, target):
        events.append("rename")
        return rename(source, target)

    monkeypatch.setattr(os, "fsync", flushed)
    monkeypatch.setattr(Path, "rename", renamed)
    storage.write_directory(tmp_path / "net" / "1", FILES)

    assert events == ["a.bin", "b.bin", "empty", ".tmp", "rename", "net"]


def test_what_a_killed_write_left_goes_even_if_its_process_id_lives_again(tmp_path):
    """In a container every export may have the same process id: what is abandoned is told by its lock, not by that."""
    left = tmp_path / f".tmp-1-{os.getpid()}-0a1b2c3d"
    left.mkdir()
    (left / "a.bin").write_bytes(b"half")
    other = tmp_path / ".tmp-2-0a1b2c3d"
    other.mkdir()
    storage.write_directory(tmp_path / "1", FILES)

    assert sorted(path.name for path in tmp_path.iterdir()) == [other.name, "1"]


def test_a_write_in_progress_is_left_alone(tmp_path):
    """A second write to the same place does not take the first one's files for abandoned."""
    with storage._temporary_directory(tmp_path / "1") as first:
        storage.write_file(first / "a.bin", b"a")
        storage.write_directory(tmp_path / "1", FILES)

        assert (first / "a.bin").read_bytes() == b"a"
    assert [path.name for path in tmp_path.iterdir()] == ["1"]


def test_names_with_wildcards(tmp_path):
    """A target's name is no pattern: another target's abandoned files stay."""
    mine, other = tmp_path / ".tmp-[12]-00", tmp_path / ".tmp-1-00"
    mine.mkdir()
    other.mkdir()
    storage.write_directory(tmp_path / "[12]", FILES)

    assert sorted(path.name for path in tmp_path.iterdir()) == [".tmp-1-00", "[12]"]


FULL = """
import errno, sys
from pathlib import Path
from foundation.storage import write_directory

folder = Path(sys.argv[1])
(folder / "net").mkdir()
before = folder.stat().st_dev
try:
    write_directory(folder / "net" / "1", {"small": b"s" * 100, "large": b"l" * 400_000})
except OSError as error:
    print(errno.errorcode[error.errno], [path.name for path in (folder / "net").iterdir()])
write_directory(folder / "net" / "1", {"small": b"s" * 100})
print([path.name for path in (folder / "net" / "1").iterdir()])
"""


def test_a_full_disk(tmp_path):
    """On a disk that is full (a real one of 128 KiB) the write fails as ENOSPC, leaves nothing, and a smaller one succeeds."""
    script = 'mount -t tmpfs -o size=128k tmpfs "$1" && shift && exec "$@"'
    mount = ("sh", "-c", script, "sh", str(tmp_path))
    for wrap in (("unshare", "--user", "--map-root-user", "--mount", *mount), ("unshare", "--mount", *mount)):
        if shutil.which("unshare") and run("", wrap=wrap).returncode == 0:
            break
    else:
        pytest.skip("this system allows neither a user and mount namespace nor a mount: no small disk can be made")
    done = run(FULL, tmp_path, wrap=wrap)

    assert done.stdout.splitlines() == ["ENOSPC []", "['small']"], done.stderr


def test_a_file_size_limit(tmp_path):
    """Where files may not grow so large, the write fails as EFBIG, and leaves nothing."""
    done = run(FULL, tmp_path, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)))

    assert done.stdout.splitlines() == ["EFBIG []", "['small']"], done.stderr


RACE = """
import sys, time
from pathlib import Path
from foundation.storage import write_directory

root, me = Path(sys.argv[1]), sys.argv[2]
(root / f"ready-{me}").touch()
while not (root / "go").exists():
    pass
for number in range(1, 41):
    try:
        write_directory(root / "net" / str(number), {f"{name}.bin": me.encode() * 20_000 for name in "abc"})
        print(number, "won")
    except FileExistsError:
        print(number, "lost")
"""


def test_two_writers_of_one_place(tmp_path):
    """Of two processes that write to the same place at the same time exactly one wins, and what is there is all its own."""
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    writers = [
        subprocess.Popen([sys.executable, "-c", RACE, str(tmp_path), me], env=environment, stdout=subprocess.PIPE, text=True)
        for me in ("x", "y")
    ]
    while len(list(tmp_path.glob("ready-*"))) < len(writers):
        assert all(writer.poll() is None for writer in writers)
    (tmp_path / "go").touch()
    answers = [dict(line.split() for line in writer.communicate(timeout=60)[0].splitlines()) for writer in writers]

    assert [writer.returncode for writer in writers] == [0, 0]
    for number in map(str, range(1, 41)):
        outcomes = [answer[number] for answer in answers]
        assert sorted(outcomes) == ["lost", "won"], number
        winner = "xy"[outcomes.index("won")].encode()
        assert content(tmp_path / "net" / number) == {f"{name}.bin": winner * 20_000 for name in "abc"}
    assert not list((tmp_path / "net").glob(".*"))


def test_interrupted_by_a_person(tmp_path, monkeypatch, request):
    """Ctrl-C in the middle of a write leaves nothing behind."""

    def interrupted(_):
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(os, "fsync", interrupted)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a run in the background starts with SIGINT ignored
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    with pytest.raises(KeyboardInterrupt):
        storage.write_directory(tmp_path / "1", FILES)

    assert list(tmp_path.iterdir()) == []


def test_canonical_json():
    """Keys are sorted, nothing is spaced, text is UTF-8 as it is."""
    value = {"b": [1, 2.5, None, True], "a": {"ü": "größe", "é": "\u2028"}}

    assert storage.canonical_json(value) == '{"a":{"é":"\u2028","ü":"größe"},"b":[1,2.5,null,true]}'.encode()


def test_a_file_of_a_directory_is_replaced_whole(tmp_path):
    """What another process sees of a directory is the file before or the file after, and no other; the rest stays as it was."""
    target = tmp_path / "it"
    storage.write_directory(target, FILES)
    for data in (b"one", b"two"):
        storage.replace_within(target, "facts.json", data)
        assert content(target) == {**FILES, "facts.json": data}
    assert [path.name for path in tmp_path.iterdir()] == ["it"]


def test_a_replacement_that_fails_leaves_the_file(tmp_path):
    """A name that cannot be replaced is as it was, and nothing is left behind."""
    (tmp_path / "it" / "taken" / "inner").mkdir(parents=True)
    with pytest.raises(OSError, match="Is a directory"):
        storage.replace_within(tmp_path / "it", "taken", b"new")

    assert (tmp_path / "it" / "taken" / "inner").is_dir()
    assert [path.name for path in tmp_path.iterdir()] == ["it"]


def test_a_directory_is_locked_once(tmp_path):
    """Who comes second is told; afterwards it is free again."""
    with storage.locked(tmp_path) as first, storage.locked(tmp_path) as second:
        assert (first, second) == (True, False)
    with storage.locked(tmp_path) as third:
        assert third


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_json_has_no_words_for(number):
    """NaN and infinities are refused."""
    with pytest.raises(ValueError, match="Out of range float values are not JSON compliant"):
        storage.canonical_json({"a": [number]})


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(st.text(st.characters(codec="utf-8")), JSON))
def test_the_order_in_which_keys_came_does_not_show(value):
    """The same value gives the same bytes in whatever order its keys were added, and comes back from them."""
    other = dict(reversed(value.items()))

    assert storage.canonical_json(value) == storage.canonical_json(other)
    assert json.loads(storage.canonical_json(value)) == value


def test_the_bytes_do_not_depend_on_the_hash_seed():
    """Every process gives the same bytes, whatever seed its sets and dictionaries were built under."""
    code = (
        "import sys; from foundation.storage import canonical_json\n"
        "names = {f'key{n}' for n in range(50)}\n"
        "sys.stdout.write(canonical_json({name: {other: 1 for other in names} for name in names}).decode())"
    )
    outputs = {run(code, env={"PYTHONHASHSEED": seed}).stdout for seed in ("0", "1", "2", "random")}

    assert len(outputs) == 1
    assert len(json.loads(outputs.pop())) == 50

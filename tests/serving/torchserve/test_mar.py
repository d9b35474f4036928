"""Archives: TorchServe's own are unpacked whole; whatever else is given, nothing is written where it should not be."""

import io
import json
import os
import re
import runpy
import shutil
import stat
import struct
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving.torchserve.archives import mar as mar_module
from serving.torchserve.archives.mar import unpack
from serving.torchserve.archives.mar_manifest import Overrides
from serving.torchserve.archives.members import Contents, Member
from serving.torchserve.archives.model_config import ModelConfig
from serving.torchserve.errors import InternalServerException, InvalidModelException, ModelNotFoundException, TorchServeError

HOSTILE = Path(__file__).parents[2] / "hostile" / "mar"
MAKER = runpy.run_path(str(HOSTILE / "make_hostile.py"))
FILES, MADE = MAKER["FILES"], MAKER["MADE"]
SUFFIXES = {"default": ".mar", "zip-store": ".mar", "tgz": ".tar.gz", "no-archive": ""}
HANDLER = "def handle(data, context):\n    return data\n"
MANIFEST = {"runtime": "python", "model": {"modelName": "tiny", "modelVersion": "1.0", "handler": "handler.py"}}

few = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


def require_told(error, expected):
    """The whole message; the dots in the expected one stand for words of Python's own."""
    assert re.fullmatch(".*".join(map(re.escape, expected.split("…"))), str(error), re.DOTALL), str(error)


def tree(folder):
    """Every path below a folder, with what it is, its mode and its bytes."""
    return {
        str(path.relative_to(folder)): (path.lstat().st_mode, path.read_bytes() if path.is_file() else b"")
        for path in sorted(folder.rglob("*"))
    }


def names(folder):
    return {name for name, (mode, _) in tree(folder).items() if stat.S_ISREG(mode)}


def zip_of(members, **options):
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", **options) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return written.getvalue()


def tgz_of(members, **options):
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w:gz", **options) as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return written.getvalue()


def with_manifest(manifest=MANIFEST, **more):
    text = manifest if isinstance(manifest, str) else json.dumps(manifest)
    return {"handler.py": HANDLER.encode(), "MAR-INF/MANIFEST.json": text.encode(), **more}


@pytest.fixture
def into(tmp_path):
    return tmp_path / "unpacked"


@pytest.fixture
def write(tmp_path):
    def write(data, name="tiny.mar"):
        (tmp_path / name).write_bytes(data)
        return tmp_path / name

    return write


@pytest.fixture
def unpacked(write, into):
    """Unpacks an archive of a manifest, and of what is asked."""
    return lambda manifest=MANIFEST, asked=None, **more: unpack(
        write(zip_of(with_manifest(manifest, **more))), into, asked or Overrides()
    )


@pytest.fixture
def archiver(tmp_path):
    """Runs torch-model-archiver itself, on files of a folder; its scratch folder is the test's own."""
    (tmp_path / "source").mkdir()
    (tmp_path / "source/handler.py").write_text(HANDLER)

    def run(*flags):
        scratch = tmp_path / "scratch"
        scratch.mkdir(exist_ok=True)
        command = [
            sys.executable,
            "-m",
            "model_archiver.model_packaging",
            "--handler",
            "handler.py",
            "--export-path",
            str(tmp_path),
        ]
        subprocess.run(
            [*command, *flags],
            cwd=tmp_path / "source",
            env={**os.environ, "TMPDIR": str(scratch)},
            check=True,
            timeout=60,
            capture_output=True,
        )

    return run


# What TorchServe's own archiver makes.


@pytest.mark.parametrize("form", SUFFIXES)
def test_an_archive_with_all_options(archiver, tmp_path, into, form):
    """Every format, with every option: all files are there, and what the manifest says is said."""
    source = tmp_path / "source"
    for name, text in {
        "model.pt": "weights",
        "model.py": "class Model: ...",
        "requirements.txt": "numpy",
        "model-config.yaml": "batchSize: 4\nhandler: {a: 1}",
        "index_to_name.json": "{}",
        "extra/vocabulary.txt": "a b",
        "extra/deeper/more.txt": "c",
    }.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(text)
    archiver(
        *("--model-name", "all.of-it_1", "--version", "2.5", "--runtime", "python3", "--archive-format", form),
        *("--serialized-file", "model.pt", "--model-file", "model.py", "--extra-files", "index_to_name.json,extra"),
        *("--requirements-file", "requirements.txt", "--config-file", "model-config.yaml"),
    )

    unpacked = unpack(tmp_path / f"all.of-it_1{SUFFIXES[form]}", into)

    assert names(unpacked.directory) == {
        "MAR-INF/MANIFEST.json",
        "deeper/more.txt",
        "handler.py",
        "index_to_name.json",
        "model-config.yaml",
        "model.pt",
        "model.py",
        "requirements.txt",
        "vocabulary.txt",
    }
    assert (unpacked.directory / "handler.py").read_text() == HANDLER
    assert (unpacked.name, unpacked.version, unpacked.handler, unpacked.runtime) == (
        "all.of-it_1",
        "2.5",
        "handler.py",
        "python3",
    )
    assert unpacked.requirements == unpacked.directory / "requirements.txt"
    assert unpacked.model_config == ModelConfig(batch_size=4)


@pytest.mark.parametrize("form", SUFFIXES)
def test_an_archive_with_no_options(archiver, tmp_path, into, form):
    """A name, a version and a handler are enough; there is nothing to install or to configure then."""
    archiver("--model-name", "tiny", "--version", "1.0", "--archive-format", form)

    unpacked = unpack(tmp_path / f"tiny{SUFFIXES[form]}", into)

    assert (unpacked.name, unpacked.version, unpacked.handler, unpacked.runtime) == ("tiny", "1.0", "handler.py", "python")
    assert (unpacked.requirements, unpacked.model_config) == (None, ModelConfig())


# Other writers.


@pytest.mark.parametrize("name", ["tiny.mar", "tiny.zip", "tiny.tar.gz", "tiny"])
@pytest.mark.parametrize("data", [zip_of(with_manifest()), tgz_of({f"m/{key}": value for key, value in with_manifest().items()})])
def test_the_bytes_say_what_it_is(write, into, data, name):
    """A name or a suffix does not count."""
    assert unpack(write(data, name), into).name == "tiny"


def test_a_zip_written_to_a_pipe(write, into):
    """Members may be written before their sizes are known: those stand behind them."""

    class Pipe(io.BytesIO):
        def seekable(self):
            return False

        def tell(self):
            raise OSError

    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in with_manifest().items():
            archive.writestr(name, data)

    assert struct.unpack("<H", pipe.getvalue()[6:8])[0] & 8
    assert unpack(write(pipe.getvalue()), into).name == "tiny"


def test_a_zip_of_large_files(write, into, monkeypatch):
    """Sizes and places of 64 bits are read, as archives of large weights have them."""
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 100)
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 1)

    data = zip_of(with_manifest(**{"weights.pt": bytes(5000)}))

    assert b"PK\6\6" in data
    assert b"PK\6\7" in data
    assert (unpack(write(data), into).directory / "weights.pt").read_bytes() == bytes(5000)


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_tar_files_of_all_formats(write, into, form):
    """Long names, names of other scripts and folders of their own are read from all three kinds of tar files."""
    long = "/".join(["m", *["folder"] * 14, "ä.py" if form != tarfile.USTAR_FORMAT else "a.py"])
    members = {f"m/{key}": value for key, value in with_manifest().items()}

    unpacked = unpack(write(tgz_of({**members, long: b"1"}, format=form)), into)

    assert names(unpacked.directory) == {"handler.py", "MAR-INF/MANIFEST.json", long.removeprefix("m/")}


def test_tar_itself(tmp_path, into):
    """What `tar czf m.tar.gz ./m` writes is read: the dot and the folders at the front are no names."""
    for name, data in with_manifest().items():
        (tmp_path / "m" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "m" / name).write_bytes(data)
    subprocess.run(["tar", "czf", "m.tar.gz", "./m"], cwd=tmp_path, check=True)

    assert names(unpack(tmp_path / "m.tar.gz", into).directory) == {"handler.py", "MAR-INF/MANIFEST.json"}


def test_empty_folders_are_made(write, into):
    """A folder that stands in the archive is there, though nothing is in it."""
    assert (unpack(write(zip_of({**with_manifest(), "cache/": b""})), into).directory / "cache").is_dir()


# The manifest.


def test_an_old_manifest(unpacked):
    """Keys that are not known do no harm."""
    old = {"modelServerVersion": "1.0", "implementationVersion": "1.0", "specificationVersion": "1.0", "engine": {"a": 1}}

    assert unpacked({**old, **MANIFEST, "model": {**MANIFEST["model"], "extensions": {"a": 1}, "publisher": None}}).name == "tiny"


def test_numbers_are_texts(unpacked):
    """A version that is written as a number is the text of it, to the last zero."""
    assert unpacked('{"model": {"modelName": 5, "modelVersion": 1.10, "handler": "h.py"}}').version == "1.10"


@pytest.mark.parametrize(("written", "runtime"), [("python", "python"), ("python3", "python3"), ("PYTHON", "python")])
def test_runtimes(unpacked, written, runtime):
    """Python has two names, which may be in capitals."""
    assert unpacked({**MANIFEST, "runtime": written}).runtime == runtime


def test_no_manifest(write, into):
    """Without a manifest, the version is 1.0 and the handler the default; the name has to be given."""
    archive = write(zip_of({"h.py": HANDLER}))

    unpacked = unpack(archive, into, Overrides(name="given", default_handler="h.py"))

    assert (unpacked.name, unpacked.version, unpacked.handler, unpacked.runtime) == ("given", "1.0", "h.py", "python")
    with pytest.raises(InvalidModelException) as told:
        unpack(archive, into)
    assert str(told.value) == (
        "Model name is not defined. tiny.mar has no MAR-INF/MANIFEST.json at its root: give model_name, or pack it with "
        "torch-model-archiver."
    )


def test_what_is_asked_beats_the_manifest(unpacked):
    """A registration's name, handler and runtime hold, whatever the manifest says."""
    asked = unpacked(asked=Overrides(name="other", handler="h:f", runtime="python3", default_name="n", default_handler="d"))

    assert (asked.name, asked.handler, asked.runtime) == ("other", "h:f", "python3")


def test_defaults_come_last(unpacked):
    """A default name, and a default handler, hold only where there is no other."""
    defaults = Overrides(default_name="n", default_handler="d")

    assert (unpacked(asked=defaults).name, unpacked(asked=defaults).handler) == ("tiny", "handler.py")
    assert (unpacked({}, asked=defaults).name, unpacked({}, asked=defaults).handler) == ("n", "d")


def test_a_name_that_is_asked_is_a_name(unpacked):
    """The rule for names holds for those that a client gives, too."""
    with pytest.raises(InvalidModelException, match=r"^The model name '\.\./up' of tiny\.mar is not one"):
        unpacked(asked=Overrides(name="../up"))


@pytest.mark.parametrize(
    "handler", ["handler.py", "handler", "handler:fn", "image_classifier", "my_package.handler", "a/handler.py"]
)
def test_handlers(unpacked, handler):
    """A handler may be a file, a function in one, a built-in name, or a module that is installed: a worker finds out."""
    assert unpacked({"model": {**MANIFEST["model"], "handler": handler}}).handler == handler


# What is refused.


def test_the_files_are_what_their_script_makes():
    """The files on disk are byte for byte those of make_hostile.py, and there is no other."""
    on_disk = {path.name: path.read_bytes() for path in HOSTILE.iterdir() if path.name.endswith((".mar", ".tar.gz"))}

    assert on_disk == {name: data for name, (data, _) in FILES.items()}


@pytest.mark.parametrize("name", FILES)
def test_a_hostile_archive(tmp_path, into, name):
    """Each is refused in the words that are due, and nothing of it is left, in its place or another."""
    before = tree(tmp_path)

    with pytest.raises(InvalidModelException) as told:
        unpack(HOSTILE / name, into)

    require_told(told.value, FILES[name][1].format(name))
    assert tree(tmp_path) == before


@pytest.mark.parametrize("name", MADE)
def test_a_large_hostile_archive(write, tmp_path, into, name):
    """Bombs, and archives of too many members, are refused before they fill the disk or the memory; nothing is left."""
    make, expected = MADE[name]
    archive = write(make(), name)
    before = tree(tmp_path)

    with pytest.raises(InvalidModelException) as told:
        unpack(archive, into)

    require_told(told.value, expected.format(name))
    assert tree(tmp_path) == before


def test_what_shrinks_much_is_no_bomb(write, into):
    """Up to 256 MiB, an archive may unpack to a thousand times its size: weights may be zeros."""
    archive = write(zip_of(with_manifest(**{"weights.pt": bytes(8 << 20)}), compression=zipfile.ZIP_DEFLATED))

    assert (unpack(archive, into).directory / "weights.pt").stat().st_size == 8 << 20
    assert archive.stat().st_size < 16 << 10


@pytest.mark.parametrize("first", [{"Model.py": b""}, {"Model.py/a": b""}])
def test_names_that_the_file_system_merges(tmp_path, first):
    """Where the file system takes two names for one, the archive is refused: the second would overwrite the first."""
    (tmp_path / "Model.py").mkdir()  # as if it were another's

    with pytest.raises(InvalidModelException) as told:
        mar_module._write(
            Contents(
                [Member(name, len(data), lambda: io.BytesIO(b""), tuple(name.split("/"))) for name, data in first.items()], 9
            ),
            tmp_path,
            "tiny.mar",
            lambda: None,
        )

    assert str(told.value) == (
        "tiny.mar is refused: the file system here takes 'Model.py' and another member for one. Rename one of the two."
    )


def test_case_is_kept_where_the_file_system_keeps_it(write, into):
    """Two names that differ in case are two files, where the file system has room for both."""
    members = {"a.py": b"1", "A.py": b"2"}
    (into.parent / "probe").touch()
    if (into.parent / "PROBE").exists():
        pytest.skip("the file system knows no case")

    assert names(unpack(write(zip_of({**with_manifest(), **members})), into).directory) >= members.keys()


def test_no_archive_there(tmp_path, into):
    """An archive that is not there is not found, whatever its path."""
    (tmp_path / "file").touch()
    for source in (tmp_path / "absent.mar", tmp_path / "file" / "absent.mar"):
        with pytest.raises(ModelNotFoundException) as told:
            unpack(source, into)
        assert str(told.value) == "Model not found at: absent.mar"
    assert not into.exists()


def test_a_pipe_is_no_archive(tmp_path, into):
    """A pipe is refused, not waited for."""
    os.mkfifo(tmp_path / "pipe.mar")

    with pytest.raises(InvalidModelException) as told:
        unpack(tmp_path / "pipe.mar", into)

    assert str(told.value) == "pipe.mar is refused: it is neither a file nor a folder."


# Folders.


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "store" / "tiny"
    for name, data in with_manifest().items():
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        (made / name).write_bytes(data)
    return made


def test_a_folder_is_copied(folder, into):
    """What is run is a copy: the folder may change, and is not written to."""
    before = tree(folder)

    unpacked = unpack(folder, into)

    assert names(unpacked.directory) == names(folder)
    assert not unpacked.directory.is_relative_to(folder)
    assert tree(folder) == before


def test_a_link_to_a_folder(folder, into):
    """The folder itself may be a link, as stores have them for the current one."""
    (folder.parent / "current").symlink_to("tiny")

    assert unpack(folder.parent / "current", into).name == "tiny"


@pytest.mark.parametrize("target", ["/etc/hosts", "handler.py", "MAR-INF", "nowhere"])
def test_a_link_in_a_folder(folder, into, target):
    """Links below a folder are refused, wherever they lead."""
    (folder / "MAR-INF/link").symlink_to(target)

    with pytest.raises(InvalidModelException) as told:
        unpack(folder, into)

    assert str(told.value) == (
        "tiny is refused: the member 'MAR-INF/link' is a symbolic link. Only files and folders are unpacked: put the file itself "
        "in its place."
    )
    assert not into.exists()


def test_a_pipe_in_a_folder(folder, into):
    """A pipe below a folder is refused, not waited for."""
    os.mkfifo(folder / "pipe")

    with pytest.raises(InvalidModelException, match=r"^tiny is refused: the member 'pipe' is a named pipe\."):
        unpack(folder, into)


def test_a_name_that_is_no_text(folder, into):
    """A name in another encoding than UTF-8 is refused: no archive could carry it."""
    (Path(os.fsdecode(os.fsencode(folder) + b"/\xff.py"))).touch()

    with pytest.raises(InvalidModelException, match=r"^tiny is refused: the member '\\udcff\.py' has a control character"):
        unpack(folder, into)


def test_a_folder_around_its_own_copy(folder):
    """A folder is not copied into itself."""
    with pytest.raises(InvalidModelException) as told:
        unpack(folder, folder / "unpacked")

    assert str(told.value) == "tiny is refused: models are unpacked below it, so it is no model's own folder."


# What is left, and for whom.


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_modes(write, into, umask):
    """Files are for their owner alone and not executable, whatever the archive and the umask say."""
    info = zipfile.ZipInfo("run.sh")
    info.external_attr = (stat.S_IFREG | 0o6777) << 16
    archive = write(zip_of({**with_manifest(), info: b"#!/bin/sh", "a/b/c.py": b""}))
    before = os.umask(umask)
    try:
        unpacked = unpack(archive, into)
    finally:
        os.umask(before)

    modes = {stat.S_IMODE(path.stat().st_mode) for path in unpacked.directory.rglob("*") if path.is_file()}
    assert modes == {0o600}
    folders = [unpacked.directory, *(path for path in unpacked.directory.rglob("*") if path.is_dir())]
    assert {stat.S_IMODE(path.stat().st_mode) for path in folders} == {0o700}


def test_each_has_its_own_folder(write, into):
    """An archive that is unpacked twice is there twice; another one that is refused leaves both alone."""
    archive = write(zip_of(with_manifest()))
    first, second = unpack(archive, into), unpack(archive, into)
    before = tree(into)

    with pytest.raises(InvalidModelException):
        unpack(HOSTILE / "zip-up.mar", into)

    assert first.directory != second.directory
    assert {first.directory.parent, second.directory.parent} == {into}
    assert tree(into) == before


def test_no_room(write, into, monkeypatch):
    """What does not fit on the disk is not begun."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100, 90, 10))

    with pytest.raises(InternalServerException) as told:
        unpack(write(zip_of(with_manifest())), into)

    assert str(told.value) == "Failed to save model: tiny.mar needs more than the 10 bytes that are free"
    assert not into.exists()


def test_no_place(write, into):
    """Where there can be no folder, that is the server's failure, not the archive's."""
    into.touch()

    with pytest.raises(InternalServerException) as told:
        unpack(write(zip_of(with_manifest())), into)

    assert str(told.value) == "Failed to save model: tiny.mar: Not a directory"


# Whatever is given.

PARTS = st.sampled_from(
    ["..", ".", "", "a", "A", "b", "\u00e9", "e\u0301", "\\", "a\\..", "C:", "~", "\0", "a\nb", "a" * 256, "\ufdfa"]
)
NAMES = st.one_of(st.text(max_size=8), st.lists(PARTS, min_size=1, max_size=6).map("/".join))
TAR_KINDS = st.sampled_from(
    [tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.GNUTYPE_SPARSE]
)
ZIP_KINDS = st.sampled_from([0, stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFIFO])


def require_contained(archive, tmp_path):
    """Unpacked or refused in our words: what is outside is as it was; inside are plain files, or nothing at all."""
    into = tmp_path / "around" / "unpacked"
    shutil.rmtree(into, ignore_errors=True)
    into.parent.mkdir(exist_ok=True)
    before = tree(tmp_path)
    try:
        unpack(archive, into)
    except TorchServeError:
        assert tree(tmp_path) == before
        return
    after = tree(tmp_path)
    assert {name: after[name] for name in before} == before
    assert all(name.startswith("around/unpacked") for name in after.keys() - before.keys())
    assert {stat.S_IFMT(mode) for name, (mode, _) in after.items() if name not in before} <= {stat.S_IFREG, stat.S_IFDIR}


@few
@given(members=st.lists(st.tuples(NAMES, ZIP_KINDS, st.binary(max_size=20)), max_size=6))
def test_zip_files_of_any_names(tmp_path, members):
    """Whatever the members of a zip file are called, and said to be, nothing is written outside."""
    entries = [
        MAKER["Entry"](name.encode(errors="surrogatepass"), data, kind | 0o777 if kind else 0) for name, kind, data in members
    ]
    archive = tmp_path / "any.mar"
    archive.write_bytes(MAKER["zipped"](*entries))

    require_contained(archive, tmp_path)


@few
@given(members=st.lists(st.tuples(NAMES, TAR_KINDS, NAMES, st.binary(max_size=20)), max_size=6), top=st.sampled_from(["", "m/"]))
def test_tar_files_of_any_names(tmp_path, members, top):
    """Whatever the members of a tar file are called, and wherever they lead, nothing is written outside."""
    archive = tmp_path / "any.tar.gz"
    with tarfile.open(archive, "w:gz", errors="surrogateescape") as written:
        for name, data in with_manifest().items():
            info = tarfile.TarInfo(f"m/{name}")
            info.size = len(data)
            written.addfile(info, io.BytesIO(data))
        for name, kind, target, data in members:
            info = tarfile.TarInfo(top + name.encode(errors="replace").decode())
            info.type, info.linkname = kind, target.encode(errors="replace").decode()
            info.size = len(data) if kind in {tarfile.REGTYPE, tarfile.GNUTYPE_SPARSE} else 0
            written.addfile(info, io.BytesIO(data))

    require_contained(archive, tmp_path)


@few
@given(
    data=st.sampled_from([data for data, _ in FILES.values()] + [MAKER["zipped"](), MAKER["tgz"]()]),
    places=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=4),
    length=st.one_of(st.just(1.0), st.floats(0, 1)),
)
def test_damaged_archives(tmp_path, data, places, length):
    """However an archive is damaged, it is unpacked or refused in our words, and nothing is written outside."""
    changed = bytearray(data)
    for place, byte in places:
        if changed:
            changed[int(place * (len(changed) - 1))] = byte
    archive = tmp_path / "damaged.mar"
    archive.write_bytes(changed[: int(length * len(changed))])

    require_contained(archive, tmp_path)

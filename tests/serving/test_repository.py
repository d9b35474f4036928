"""The model repository at run time: what is served follows the disk. With a loader that reads a word; then the real one."""

import asyncio
import contextlib
import errno
import shutil
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

import serving.repository
from artifact.errors import GoldenMismatch
from artifact.manifest import GOLDEN, MANIFEST, PARITY, FileEntry, Manifest, read_manifest
from artifact.signature import Signature, TensorSpec
from serving.app import create_app
from serving.errors import BadRequest, LoadFailed, ModelNotFound, ModelNotReady, NoRepository
from serving.plan import make_plan
from serving.repository import Event, Readiness, Repository
from serving.settings import Settings, VersionPolicy

DEADLINE_S = 30
SIGNATURE = Signature((TensorSpec("x", "float32", (1,)),), (TensorSpec("y", "float32", (1,)),))


class Served:
    """What the repository needs of a served version. `drained` is set when all that it had begun is answered."""

    def __init__(self, name, version, directory, settings):
        self.name, self.version, self.settings = name, version, settings
        self.artifact = SimpleNamespace(manifest=read_manifest(directory))
        self.planned = make_plan(directory, self.artifact.manifest, settings)
        self.retired = 0
        self.drained = asyncio.Event()
        self.drained.set()

    async def retire(self):
        self.retired += 1
        await self.drained.wait()


class Loader:
    """Loads a folder whose model is a word; "bad" words fail. A version that is in `held` waits until its event is set."""

    def __init__(self):
        self.loads = []
        self.held = {}

    async def __call__(self, name, version, directory, settings) -> Any:
        self.loads.append((name, version))
        word = (directory / "model.onnx").read_text()
        if (name, version) in self.held:
            await self.held[name, version].wait()
        if word.startswith("bad"):
            raise GoldenMismatch(f"{name} {version} is {word}")
        if word == "crash":
            raise ValueError(word)
        return Served(name, version, directory, settings)


@pytest.fixture
def root(tmp_path):
    return tmp_path / "models"


@pytest.fixture
def write(root):
    """A function that writes versions: `write(m={1: "good"})`."""

    def write(**models):
        for name, versions in models.items():
            for version, word in versions.items():
                folder = root / name / str(version)
                folder.mkdir(parents=True, exist_ok=True)
                entry = FileEntry.of(word.encode())
                evidence = {GOLDEN: FileEntry.of(b""), PARITY: FileEntry.of(b"")}
                stated = Manifest(SIGNATURE, config={}, weights_sha256="", files={"model.onnx": entry}, evidence=evidence)
                files = {"model.onnx": word.encode(), GOLDEN: b"", PARITY: b"", MANIFEST: stated.encode()}
                for file, data in files.items():
                    (folder / file).write_bytes(data)

    return write


@pytest.fixture
def go(root):
    """A function that starts a repository with the loader above and settings, has a test's coroutine use it, and closes it."""

    def go(test, **settings):
        async def whole():
            loader, events = Loader(), []
            repository = Repository(Settings(repository=root, **settings), loader, events.append)
            async with asyncio.timeout(DEADLINE_S):
                async with repository:
                    await test(SimpleNamespace(repository=repository, loader=loader, events=events))
            return repository

        return asyncio.run(whole())

    return go


def versions(repository, name="m"):
    return [served.version for served in repository.served(name)]


def ready(**warnings):
    return Readiness(ready=True, reasons={}, warnings=warnings)


def unready(reasons, **warnings):
    return Readiness(ready=False, reasons=reasons, warnings=warnings)


@contextlib.contextmanager
def refused(kind, message):
    """The block raises such an error, with this message to the letter."""
    with pytest.raises(kind) as caught:
        yield
    assert str(caught.value) == message


async def wait_until(true):
    """Gives the event loop turns; the deadline of the whole test ends a wait in vain."""
    while not true():  # noqa: ASYNC110 - what is waited for tells no event
        await asyncio.sleep(0)


class TestStart:
    @pytest.mark.parametrize(
        ("policy", "expected"), [("latest:1", [3]), ("latest:2", [2, 3]), ("all", [1, 2, 3]), ("versions:1,3", [1, 3])]
    )
    def test_the_policy_says_which_versions_are_served(self, write, go, policy, expected):
        """The policy's versions are loaded, the newest first, and the newest is the default."""
        write(m={1: "a", 2: "b", 3: "c"})

        async def test(it):
            assert versions(it.repository) == expected
            assert it.loader.loads == [("m", version) for version in reversed(expected)]
            assert it.repository.find("m").version == 3
            assert it.repository.find("m", str(expected[0])).version == expected[0]

        go(test, version_policy=policy)

    def test_a_version_that_fails_leaves_the_others(self, write, go):
        """What fails is kept out with its reason, told to who asks for it; other versions and models are served."""
        write(m={1: "good", 2: "bad"}, other={1: "crash"}, third={5: "good"})

        async def test(it):
            assert it.repository.names() == ["m", "third"]
            assert it.repository.find("m").version == 1
            with refused(ModelNotReady, "version 2 of m failed its checks: m 2 is bad; versions served: 1; labels: none"):
                it.repository.find("m", "2")
            with refused(ModelNotReady, "other is not ready: version 1 failed its checks: ValueError: crash"):
                it.repository.find("other")
            reasons = {"other": "other is not ready: version 1 failed its checks: ValueError: crash"}
            assert it.repository.readiness() == unready(reasons, m="version 2 failed its checks: m 2 is bad")
            assert it.repository.states() == (("m", 1, True), ("m", 2, False), ("other", 1, False), ("third", 5, True))

        go(test, version_policy="all")

    def test_what_is_not_there_is_named_with_what_is(self, write, go):
        """404 names the models, or the versions and labels."""
        write(m={1: "good", 2: "good"}, n={1: "good"})

        async def test(it):
            with refused(ModelNotFound, "no model is called 'k'; there are: m, n"):
                it.repository.find("k")
            with refused(ModelNotFound, "m has no version or label '9'; versions served: 2; labels: stable (2)"):
                it.repository.find("m", "9")
            with refused(
                ModelNotFound,
                "version 1 of m is not chosen by the version policy latest:1; versions served: 2; labels: stable (2)",
            ):
                it.repository.find("m", "1")

        go(test, model_settings={"m": {"labels": {"stable": 2}}})

    def test_a_root_that_is_no_directory_is_said(self, go):
        """A repository without a root does not start."""
        with pytest.raises(NoRepository, match="is not a directory; export there first, or say another --repository"):
            go(None)

    def test_an_empty_root_is_not_ready(self, root, go):
        """Folders without versions, hidden folders and files are no models."""
        (root / ".hidden" / "1").mkdir(parents=True)
        (root / "notes").mkdir()
        (root / "README").touch()

        async def test(it):
            reason = "no model below models: it should hold <name>/<version>/"
            assert it.repository.readiness() == unready({"*": reason})
            assert await it.repository.index() == []

        go(test)

    def test_while_starting_nothing_is_ready(self, root, write):
        """Until all was tried the server is not ready; a model that is loaded already answers, one that is not says so."""
        write(m={1: "good"}, n={1: "good"})

        async def test():
            loader = Loader()
            loader.held["n", 1] = asyncio.Event()
            repository = Repository(Settings(repository=root), loader)
            assert repository.readiness() == unready({"*": "the models are being loaded"})
            with refused(ModelNotReady, "the models are being loaded"):
                repository.find("m")
            starting = asyncio.create_task(repository.start())
            await wait_until(lambda: ("n", 1) in loader.loads)
            assert repository.find("m").version == 1
            with refused(ModelNotReady, "n is being loaded"):
                repository.find("n")
            assert [(entry["name"], entry["state"]) for entry in await repository.index()] == [("m", "READY"), ("n", "LOADING")]
            assert not repository.readiness().ready
            loader.held["n", 1].set()
            await starting
            assert repository.readiness() == ready()
            await repository.close()

        asyncio.run(test())

    def test_a_model_that_is_not_required_is_a_warning(self, write, go):
        """A model with required=false that failed leaves the server ready; so does a name that only the settings know."""
        write(m={1: "good"}, extra={1: "bad"})

        async def test(it):
            assert it.repository.readiness() == ready(
                extra="version 1 failed its checks: extra 1 is bad",
                gone="model_settings names it, but the repository does not hold it",
            )

        go(test, model_settings={"extra": {"required": False}, "gone": {}})


class TestLoad:
    def test_a_new_version_takes_over_and_the_old_one_drains_in_the_background(self, write, go):
        """The swap waits for the checks and not for the drain; until the checks are passed the old version answers."""
        write(m={1: "good"})

        async def test(it):
            old = it.repository.find("m")
            old.drained.clear()
            write(m={2: "good"})
            it.loader.held["m", 2] = asyncio.Event()
            loading = asyncio.create_task(it.repository.load("m"))
            await wait_until(lambda: ("m", 2) in it.loader.loads)
            assert it.repository.find("m") is old
            it.loader.held["m", 2].set()
            await loading
            assert it.repository.find("m").version == 2
            assert versions(it.repository) == [2]
            assert [entry["state"] for entry in await it.repository.index()] == ["UNLOADING", "READY"]
            assert old.retired == 1
            old.drained.set()
            await wait_until(lambda: it.events[-1] == Event("retired", "m", 1))
            assert [entry["state"] for entry in await it.repository.index()] == ["UNAVAILABLE", "READY"]
            assert [(event.what, event.version, event.replaces) for event in it.events] == [
                ("served", 1, False),
                ("served", 2, True),
                ("retired", 1, False),
            ]

        go(test)

    def test_a_new_version_that_fails_leaves_the_old_one(self, write, go):
        """A failed version never takes over: the caller is told why, index and readiness tell it on, the server stays ready."""
        write(m={1: "good"})

        async def test(it):
            old = it.repository.find("m")
            write(m={2: "bad"})
            with refused(LoadFailed, "m: version 2 failed its checks: m 2 is bad; versions served: 1"):
                await it.repository.load("m")
            assert it.repository.find("m") is old
            assert it.repository.readiness() == ready(m="version 2 failed its checks: m 2 is bad")
            assert await it.repository.index() == [
                {"name": "m", "version": "1", "state": "READY", "reason": ""},
                {"name": "m", "version": "2", "state": "UNAVAILABLE", "reason": "m 2 is bad"},
            ]
            assert await it.repository.index(ready_only=True) == [{"name": "m", "version": "1", "state": "READY", "reason": ""}]
            write(m={3: "good"})
            await it.repository.load("m")
            assert versions(it.repository) == [3]
            assert it.repository.readiness() == ready()

        go(test)

    def test_each_failed_version_has_an_older_one_in_its_place(self, write, go):
        """Under latest:2, with 1 and 2 served, 3 good and 4 bad: 3 and 2 are served."""
        write(m={1: "good", 2: "good"})

        async def test(it):
            write(m={3: "good", 4: "bad"})
            with pytest.raises(LoadFailed):
                await it.repository.load("m")
            assert versions(it.repository) == [2, 3]
            assert it.repository.find("m").version == 3

        go(test, version_policy="latest:2")

    def test_a_version_may_be_asked_for_beside_the_policys(self, write, go):
        """`load(version=1)` serves it too, and leaves the default as it is; the next load without it lets it go."""
        write(m={1: "good", 2: "good"})

        async def test(it):
            await it.repository.load("m", 1)
            assert versions(it.repository) == [1, 2]
            assert it.repository.find("m").version == 2
            with refused(ModelNotFound, "m has no version 7 on disk; there are: 1, 2"):
                await it.repository.load("m", 7)
            await it.repository.load("m")
            assert versions(it.repository) == [2]

        go(test)

    def test_other_settings_load_the_version_again(self, write, go):
        """Settings that a version runs under make it load again; where that fails, the old one and its settings stay."""
        write(m={1: "good"})

        async def test(it):
            before = it.repository.find("m")
            more = before.settings.model_copy(update={"max_batch_rows": 4})
            await it.repository.load("m", settings=more)
            after = it.repository.find("m")
            assert after is not before
            assert after.settings.max_batch_rows == 4
            await it.repository.load("m", settings=more)
            assert it.repository.find("m") is after
            write(m={1: "bad"})
            with pytest.raises(LoadFailed):
                await it.repository.load("m")
            write(m={1: "good"})
            await it.repository.poll()
            assert it.repository.find("m").settings.max_batch_rows == 4

        go(test)

    def test_a_policy_that_chooses_nothing_changes_nothing(self, write, go):
        """Settings under which no version would be served are refused."""
        write(m={1: "good"})

        async def test(it):
            settings = Settings(version_policy=VersionPolicy(versions=(8,))).model("m")
            with refused(LoadFailed, "m: the version policy versions:8 chooses none of the versions on disk (1)"):
                await it.repository.load("m", settings=settings)
            assert versions(it.repository) == [1]

        go(test)

    @pytest.mark.parametrize("name", ["nothing", "..", ".", "", "m/..", "../models/m", ".hidden", "m\0", "empty"])
    def test_only_folders_of_the_root_are_loaded(self, root, write, go, name):
        """A name is looked up among the root's folders; nothing that leads elsewhere is one."""
        write(m={1: "good"}, **{".hidden": {1: "good"}})
        (root / "empty").mkdir()
        (root.parent / "1").mkdir()

        async def test(it):
            with pytest.raises(ModelNotFound):
                await it.repository.load(name)
            assert it.loader.loads == [("m", 1)]

        go(test)

    def test_loads_of_one_name_wait_for_each_other_and_those_of_two_do_not(self, write, go):
        """While m is being loaded, n is loaded and unloaded; a second load of m finds nothing left to do."""
        write(m={1: "good"}, n={1: "good"})

        async def test(it):
            write(m={2: "good"}, n={2: "good"})
            it.loader.held["m", 2] = asyncio.Event()
            first, second = (asyncio.create_task(it.repository.load("m")) for _ in range(2))
            await wait_until(lambda: ("m", 2) in it.loader.loads)
            await it.repository.load("n")
            assert versions(it.repository, "n") == [2]
            it.loader.held["m", 2].set()
            await asyncio.gather(first, second)
            assert it.loader.loads.count(("m", 2)) == 1

        go(test)

    def test_a_load_goes_on_when_its_caller_leaves(self, write, go):
        """A client that hangs up does not stop what it began."""
        write(m={1: "good"})

        async def test(it):
            write(m={2: "good"})
            it.loader.held["m", 2] = asyncio.Event()
            loading = asyncio.create_task(it.repository.load("m"))
            await wait_until(lambda: ("m", 2) in it.loader.loads)
            loading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await loading
            it.loader.held["m", 2].set()
            await wait_until(lambda: versions(it.repository) == [2])

        go(test)


class TestUnload:
    def test_what_was_unloaded_stays_so_until_it_is_loaded(self, write, go):
        """Polling does not bring it back, nor do new versions; the server's readiness does not wait for it."""
        write(m={1: "good"}, n={1: "good"})

        async def test(it):
            await it.repository.unload("m")
            with refused(ModelNotFound, "m was unloaded; POST /v2/repository/models/m/load loads it again"):
                it.repository.find("m")
            write(m={2: "good"})
            await it.repository.poll()
            assert it.repository.names() == ["n"]
            assert it.repository.readiness() == ready()
            await it.repository.unload("n")
            assert it.repository.readiness() == unready({"*": "no model is served"})
            await it.repository.load("m")
            assert it.repository.find("m").version == 2
            assert it.repository.readiness() == ready()

        go(test)

    def test_an_unknown_name_is_not_found(self, write, go):
        """There is nothing to unload."""
        write(m={1: "good"})

        async def test(it):
            with refused(ModelNotFound, "no model is called 'k'; there are: m"):
                await it.repository.unload("k")

        go(test)


class TestLabels:
    def test_a_label_keeps_its_version_and_leads_to_it(self, write, go):
        """A labelled version is served though the policy alone would not choose it; it never becomes the default by that."""
        write(m={1: "good", 2: "good", 3: "good"})

        async def test(it):
            assert versions(it.repository) == [1, 2, 3]
            assert it.repository.find("m", "stable").version == 1
            assert it.repository.find("m").version == 2
            it.repository.set_label("m", "stable", 2)
            assert it.repository.find("m", "stable").version == 2
            assert versions(it.repository) == [2, 3]
            it.repository.remove_label("m", "canary")
            assert versions(it.repository) == [2]
            assert it.repository.labels("m") == {"stable": 2}
            with refused(ModelNotFound, "m has no label 'canary'; labels: stable"):
                it.repository.remove_label("m", "canary")
            with pytest.raises(ModelNotFound, match="m has no version or label 'canary'"):
                it.repository.find("m", "canary")

        go(test, model_settings={"m": {"version_policy": "versions:2", "labels": {"stable": 1, "canary": 3}}})

    def test_many_labels_are_not_all_told(self, write, go):
        """A message names the first ones, and counts the rest: hundreds would make it as long as they are."""
        write(m={1: "good"})

        async def test(it):
            for number in range(300):
                it.repository.set_label("m", f"label-{number:03}", 1)
            first = ", ".join(f"label-{number:03}" for number in range(20))
            with refused(ModelNotFound, f"m has no label 'x'; labels: {first} and 280 more"):
                it.repository.remove_label("m", "x")
            with pytest.raises(ModelNotFound, match=r"label-019 \(1\) and 280 more"):
                it.repository.find("m", "x")

        go(test)

    def test_many_models_are_not_all_told(self, write, go):
        """Neither are the models on disk, to who loads one that is not there."""
        write(**{f"m{number:02}": {1: "good"} for number in range(22)})

        async def test(it):
            first = ", ".join(f"m{number:02}" for number in range(20))
            with refused(ModelNotFound, f"no model is called 'x'; on disk: {first} and 2 more"):
                await it.repository.load("x")

        go(test)

    def test_the_label_default_says_who_answers(self, write, go):
        """Without it the newest does; where it stands for a version that is not served, nobody else answers in its place."""
        write(m={1: "good", 2: "good"})

        async def test(it):
            it.repository.set_label("m", "default", 1)
            assert it.repository.find("m").version == 1
            it.repository.remove_label("m", "default")
            assert it.repository.find("m").version == 2

        go(test, version_policy="all")

        async def test_missing(it):
            reason = "the label default of m stands for version 7, which is not on disk"
            with refused(ModelNotReady, reason):
                it.repository.find("m")
            assert it.repository.find("m", "2").version == 2
            assert it.repository.readiness() == unready({"m": reason})
            assert not it.repository.has_default("m")

        go(test_missing, model_settings={"m": {"labels": {"default": 7}}})

    @pytest.mark.parametrize(("label", "version"), [("7", 1), ("", 1), ("a b", 1), ("-a", 1), ("good", 2)])
    def test_a_label_is_a_word_for_a_served_version(self, write, go, label, version):
        """Digits would hide a version; a version that is not served cannot answer."""
        write(m={1: "good"})

        async def test(it):
            with pytest.raises(BadRequest):
                it.repository.set_label("m", label, version)
            with pytest.raises(ModelNotFound):
                it.repository.set_label("k", "stable", 1)

        go(test)


class TestPolling:
    def test_a_pass_follows_the_disk(self, root, write, go):
        """New models and versions come, deleted versions go once another one is served."""
        write(m={1: "good"})

        async def test(it):
            write(m={2: "good"}, n={1: "good"})
            await it.repository.poll()
            assert [(served.name, served.version) for served in it.repository.served()] == [("m", 2), ("n", 1)]
            shutil.rmtree(root / "m" / "2")
            await it.repository.poll()
            assert versions(it.repository) == [1]

        go(test)

    def test_the_last_version_stays_when_its_folder_is_deleted(self, root, write, go):
        """A model whose versions are being replaced by hand goes on answering; readiness says what is missing."""
        write(m={1: "good"})

        async def test(it):
            shutil.rmtree(root / "m" / "1")
            await it.repository.poll()
            assert versions(it.repository) == [1]
            assert it.repository.readiness() == ready(m="version 1 is served, but no longer on disk")
            write(m={3: "bad"})
            await it.repository.poll()
            assert versions(it.repository) == [1]
            write(m={4: "good"})
            await it.repository.poll()
            assert versions(it.repository) == [4]

        go(test)

    def test_a_model_leaves_when_its_folder_was_gone_twice(self, root, write, go):
        """One pass that misses a folder may have met the moment between two renames."""
        write(m={1: "good"}, n={1: "good"})

        async def test(it):
            (root / "m").rename(root.parent / "m")
            await it.repository.poll()
            (root.parent / "m").rename(root / "m")
            await it.repository.poll()
            shutil.rmtree(root / "m")
            await it.repository.poll()
            assert it.repository.names() == ["m", "n"]
            await it.repository.poll()
            assert it.repository.names() == ["n"]
            assert it.loader.loads == [("m", 1), ("n", 1)]
            with refused(ModelNotFound, "no model is called 'm'; there are: n"):
                it.repository.find("m")

        go(test)

    def test_an_empty_or_missing_root_takes_nothing_away(self, root, write, go):
        """So looks a volume that is not mounted: everything goes on answering, and readiness warns."""
        write(m={1: "good"})

        async def test(it):
            root.rename(root.parent / "elsewhere")
            for _ in range(3):
                await it.repository.poll()
            assert it.repository.readiness() == ready(**{"*": "the repository cannot be read; what is served stays"})
            root.mkdir()
            for _ in range(3):
                await it.repository.poll()
            assert it.repository.readiness() == ready(**{"*": "the repository holds no model any more; what is served stays"})
            root.rmdir()
            (root.parent / "elsewhere").rename(root)
            await it.repository.poll()
            assert it.repository.readiness() == ready()
            assert [event.what for event in it.events].count("unreadable") == 1

        go(test)

    def test_a_failed_version_is_tried_again_when_its_files_change(self, write, go):
        """Not at every pass: that would burn the processor; a load by hand tries at once."""
        write(m={1: "good"})

        async def test(it):
            write(m={2: "bad"})
            for _ in range(3):
                await it.repository.poll()
            assert it.loader.loads.count(("m", 2)) == 1
            with pytest.raises(LoadFailed):
                await it.repository.load("m")
            assert it.loader.loads.count(("m", 2)) == 2
            write(m={2: "good"})
            await it.repository.poll()
            assert versions(it.repository) == [2]

        go(test)

    def test_a_broken_new_model_leaves_the_server_ready(self, write, go):
        """A model that came while the server runs counts for readiness only once it was served."""
        write(m={1: "good"})

        async def test(it):
            write(n={1: "bad"})
            await it.repository.poll()
            assert it.repository.readiness() == ready(n="version 1 failed its checks: n 1 is bad")
            assert [(event.what, event.name) for event in it.events] == [("served", "m"), ("failed", "n")]

        go(test)

    def test_it_polls_by_itself_until_it_is_closed(self, root, write):
        """With poll_interval_s a new version is served without being asked for, and closing ends that."""
        write(m={1: "good"})

        async def test():
            events = asyncio.Queue()
            settings = Settings(repository=root, poll_interval_s=0.001)
            async with asyncio.timeout(DEADLINE_S), Repository(settings, Loader(), events.put_nowait) as repository:
                assert (await events.get()).version == 1
                write(m={2: "good"})
                while (await events.get()) != Event("retired", "m", 1):
                    pass
                assert repository.find("m").version == 2
            assert len(asyncio.all_tasks()) == 1

        asyncio.run(test())

    def test_a_version_that_is_being_copied_is_waited_for(self, root, go, write):
        """It is not tried while files are missing and come; it is when all are there, or when none came between two passes."""
        write(m={1: "good"}, whole={2: "good"})

        async def test(it):
            folder = root / "m" / "2"
            folder.mkdir()
            for path in (root / "whole" / "2").iterdir():
                await it.repository.poll()
                shutil.copyfile(path, folder / f".{path.name}.part")
                await it.repository.poll()
                (folder / f".{path.name}.part").rename(folder / path.name)
            assert ("m", 2) not in it.loader.loads
            assert (await it.repository.index())[1]["reason"] == "is not complete on disk yet"
            await it.repository.poll()
            assert versions(it.repository) == [2]
            (root / "m" / "3").mkdir()
            for _ in range(3):
                await it.repository.poll()
            assert it.loader.loads.count(("m", 3)) == 1
            assert "No such file or directory" in it.repository.readiness().warnings["m"]

        go(test)

    def test_a_folder_that_cannot_be_read_is_told_once(self, write, go, monkeypatch):
        """What is served of it stays; where nothing is, who asks is told why. (A superuser may read all, so it is raised.)"""
        write(m={1: "good"}, n={1: "bad"})

        def unreadable(folder):
            raise PermissionError(errno.EACCES, "Permission denied", str(folder))

        async def test(it):
            monkeypatch.setattr(serving.repository, "version_folders", unreadable)
            for _ in range(2):
                await it.repository.poll()
            assert it.repository.find("m").version == 1
            with refused(ModelNotReady, "n is not ready: its folder cannot be read: Permission denied"):
                it.repository.find("n")
            with refused(LoadFailed, "m: its folder cannot be read: Permission denied"):
                await it.repository.load("m")
            assert it.repository.readiness().warnings["m"] == "its folder cannot be read: Permission denied"
            assert [event.name for event in it.events if event.what == "unreadable"] == ["m", "n"]
            monkeypatch.undo()
            await it.repository.poll()
            assert it.repository.readiness().warnings == {}

        go(test)


class TestClose:
    def test_it_waits_for_what_is_loaded_and_what_drains(self, root, write):
        """Nothing is left behind: a version whose loading ends now is retired too, no further one is begun."""
        write(m={1: "good", 2: "good"}, n={1: "good"})

        async def test():
            loader = Loader()
            repository = Repository(Settings(repository=root, version_policy=VersionPolicy()), loader)
            loader.held["m", 1] = asyncio.Event()
            starting = asyncio.create_task(repository.start())
            await wait_until(lambda: ("m", 1) in loader.loads)
            served: Any = repository.find("m")
            served.drained.clear()
            closing = asyncio.create_task(repository.close())
            loader.held["m", 1].set()
            await wait_until(lambda: served.retired)
            with refused(ModelNotReady, "the server is shutting down"):
                repository.find("m")
            assert not closing.done()
            served.drained.set()
            await closing
            await starting
            assert loader.loads == [("m", 2), ("m", 1)]
            assert repository.served() == []
            with refused(ModelNotReady, "the server is shutting down"):
                await repository.load("m")

        asyncio.run(test())

    def test_a_version_that_leaves_badly_is_told(self, write, go):
        """An error while retiring is an event, and closing goes on."""
        write(m={1: "good"})
        error, seen = RuntimeError("stuck"), []

        async def test(it):
            async def fail():
                raise error

            it.repository.find("m").retire = fail
            seen.append(it.events)

        go(test)
        assert seen[0][-1] == Event("retired", "m", 1, error=error)


class TestRealArtifacts:
    def test_requests_are_answered_through_every_swap(self, root, mlp_artifact):
        """While versions come and go, every request has an answer, and the same one, since all versions have the same weights."""
        shutil.copytree(mlp_artifact, root / "mlp" / "1")
        answers = []

        async def ask(http):
            while True:
                answer = await http.post("/predictions/mlp", json={"inputs": {"x": [[1, 2, 3, 4]]}})
                answers.append((answer.status_code, answer.json()))
                await asyncio.sleep(0)  # without a network between, nothing else may give the others a turn

        async def swap(http):
            for version in (1, 2, 3):
                if version > 1:
                    shutil.copytree(mlp_artifact, root / "mlp" / str(version))
                    assert (await http.post("/v2/repository/models/mlp/load")).status_code == 200
                await wait_until(lambda version=version: answers and answers[-1][1].get("model_version") == str(version))

        async def whole():
            app = create_app(Settings(repository=root))
            transport = httpx.ASGITransport(app)
            async with (
                asyncio.timeout(DEADLINE_S),
                app.router.lifespan_context(app),
                httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as http,
            ):
                clients = [asyncio.create_task(ask(http)) for _ in range(4)]
                await swap(http)
                for client in clients:
                    client.cancel()
                return await asyncio.gather(*clients, return_exceptions=True)

        ends = asyncio.run(whole())
        assert all(isinstance(end, asyncio.CancelledError) for end in ends)
        assert {status for status, _ in answers} == {200}
        assert len({str(body["outputs"]) for _, body in answers}) == 1

    def test_only_other_content_is_loaded_again(self, root, mlp_artifact, rewrite_manifest):
        """Files that were only touched change nothing; a damaged copy is refused, and what was loaded is served on."""
        folder = root / "mlp" / "1"
        shutil.copytree(mlp_artifact, folder)

        async def test(repository):
            first = repository.find("mlp")
            for path in folder.iterdir():
                path.touch()
            await repository.poll()
            assert repository.find("mlp") is first
            good = (folder / "manifest.json").read_bytes()
            rewrite_manifest(folder, lambda manifest: manifest["content"]["weights"].update(sha256="1" * 64))
            whole = (folder / "parity.json").read_bytes()
            (folder / "parity.json").write_bytes(whole[:-1])
            for _ in range(2):
                await repository.poll()
            assert repository.find("mlp") is first
            assert "parity.json was changed" in repository.readiness().warnings["mlp"]
            (folder / "parity.json").write_bytes(whole)
            await repository.poll()
            second = repository.find("mlp")
            assert second is not first
            (folder / "manifest.json").write_bytes(b"{")
            for _ in range(2):
                await repository.poll()
            assert repository.find("mlp") is second
            assert "manifest.json is not a manifest" in repository.readiness().warnings["mlp"]
            (folder / "manifest.json").write_bytes(good)
            await repository.load("mlp")
            assert repository.find("mlp").artifact.manifest == first.artifact.manifest
            assert repository.readiness() == ready()

        async def whole():
            app = create_app(Settings(repository=root))
            async with asyncio.timeout(DEADLINE_S), app.router.lifespan_context(app):
                await test(app.state.running.repository)

        asyncio.run(whole())

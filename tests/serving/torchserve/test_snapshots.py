import asyncio
import json
import stat
from pathlib import Path

import pytest

from serving.properties import read_properties
from serving.read_settings import read_settings
from serving.settings import Settings
from serving.torchserve.errors import ServiceUnavailableException
from serving.torchserve.registry.registration import Registration
from serving.torchserve.registry.snapshots import Snapshots, log_directory, newest_snapshot, snapshot_directory
from serving.torchserve.registry.startup import SnapshotInvalid, from_snapshot

THEIRS = r"""#Saving snapshot
#Sun Nov 22 10:44:48 UTC 2026
inference_address=http\://127.0.0.1\:18180
model_store={store}
vmargs=-Xmx512m
model_snapshot=\{\n  "name"\: "20261122104448865-snapshot.cfg",\n  "modelCount"\: 2,\n  "created"\: 1795344288866,\n  \
"models"\: \{\n    "noop"\: \{\n      "1.0"\: \{\n        "defaultVersion"\: false,\n        "marName"\: "noop.mar",\n        \
"minWorkers"\: 1,\n        "maxWorkers"\: 1,\n        "batchSize"\: 1,\n        "maxBatchDelay"\: 100,\n        \
"responseTimeout"\: 120,\n        "startupTimeout"\: 120,\n        "runtimeType"\: "python"\n      },\n      "2.0"\: \{\n        \
"defaultVersion"\: true,\n        "marName"\: "noop_2.0.mar",\n        "minWorkers"\: 0,\n        "maxWorkers"\: 0,\n        \
"batchSize"\: 4,\n        "maxBatchDelay"\: 100,\n        "responseTimeout"\: 77,\n        "startupTimeout"\: 33,\n        \
"runtimeType"\: "python"\n      }\n    }\n  }\n}
tsConfigFile=config.properties
version=0.12.0
"""
"""What TorchServe 0.12 wrote, but for the store."""


def written(directory):
    """The snapshots in a folder by the word in their name, the last of each, as settings."""
    return {path.name[18:-4]: read_settings({}, path).settings for path in sorted(directory.iterdir())}


@pytest.fixture
def directory(tmp_path):
    return tmp_path / "logs" / "config"


def test_places(monkeypatch):
    """Snapshots are beside TorchServe's logs, in the working directory or where LOG_LOCATION says."""
    monkeypatch.delenv("LOG_LOCATION", raising=False)
    assert (log_directory(), snapshot_directory()) == (Path("logs"), Path("logs/config"))
    monkeypatch.setenv("LOG_LOCATION", "/var/log/ts")
    assert snapshot_directory() == Path("/var/log/ts/config")


def test_newest(directory):
    """The newest is the one whose name has the latest time; other files are none."""
    assert newest_snapshot(directory) is None
    directory.mkdir(parents=True)
    assert newest_snapshot(directory) is None
    for name in ("20261122104448865-snapshot.cfg", "20261122104448866-shutdown.cfg", "20261122104448867-other.cfg", "x.cfg"):
        (directory / name).write_text("")
    assert newest_snapshot(directory) == directory / "20261122104448866-shutdown.cfg"


def test_life_of_a_server(with_registry, write_mar, store, directory):
    """A server writes a snapshot when all is loaded, after every change, and at its end."""
    for number in ("1.0", "2.0"):
        write_mar(store / f"{number}.mar", "m", number)

    async def test(registry):
        models = registry.models
        await models.register(Registration("1.0.mar", batch_size=3, max_batch_delay_ms=7, response_timeout_s=8, workers=1))
        await models.scale("m", None, 1, 2)
        await models.register(Registration("2.0.mar", handler="good"))
        models.set_default("m", "2.0")

    with_registry(test, snapshots=directory)
    found = written(directory)
    assert list(found) == ["startup", "snapshot", "shutdown"]
    assert found["startup"].model_snapshot["models"] == {}
    told = found["shutdown"].model_snapshot
    assert told["modelCount"] == 2
    assert directory / told["name"] == newest_snapshot(directory)
    assert told["models"] == found["snapshot"].model_snapshot["models"]
    common = {"startupTimeout": 120, "runtimeType": "python"}
    assert told["models"]["m"] == {
        "1.0": {
            "defaultVersion": False,
            "marName": "1.0.mar",
            "minWorkers": 1,
            "maxWorkers": 2,
            "batchSize": 3,
            "maxBatchDelay": 7,
            "responseTimeout": 8,
            **common,
        },
        "2.0": {
            "defaultVersion": True,
            "marName": "2.0.mar",
            "minWorkers": 0,
            "maxWorkers": 0,
            "batchSize": 1,
            "maxBatchDelay": 100,
            "responseTimeout": 120,
            **common,
            "handler": "good",
        },
    }


def test_settings_in_a_snapshot(with_registry, directory, store, tmp_path):
    """A snapshot holds every setting that is not the default, so that the next start needs no other file."""

    async def test(registry):
        pass

    own = {"digits": {"threads": 2, "labels": {"stable": 1}}}
    allowed = (r"https://a\.example/\w+\.mar", "file://.*")
    with_registry(test, snapshots=directory, model_settings=own, allowed_urls=allowed, keystore_pass="a b\\c", port=9999)
    again = written(directory)["shutdown"]
    assert (again.port, again.model_store, again.repository) == (9999, store, tmp_path / "repository")
    assert (again.allowed_urls, again.keystore_pass, again.enable_model_api) == (allowed, "a b\\c", True)
    assert again.model("digits").threads == 2
    assert dict(again.model("digits").labels) == {"stable": 1}


def test_file_is_its_owners_alone(with_registry, directory):
    """A keystore's password may stand in a snapshot: nobody else can read it. Nothing else is left beside it."""

    async def test(registry):
        pass

    with_registry(test, snapshots=directory)
    assert {stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()} == {0o600}
    assert [path.suffix for path in directory.iterdir()] == [".cfg", ".cfg"]


def test_restart(with_registry, write_mar, store, directory):
    """The next server has the models of the one before, with their workers, parameters and default versions."""
    for number in ("1.0", "2.0"):
        write_mar(store / f"{number}.mar", "m", number)

    async def before(registry):
        models = registry.models
        await models.register(Registration("1.0.mar", name="named", batch_size=3, handler="good"))
        await models.scale("named", None, 2, 3)
        await models.register(Registration("2.0.mar", name="named"))
        models.set_default("named", "2.0")

    async def after(registry):
        models = registry.models
        assert [version.version for version in models.versions("named")] == ["1.0", "2.0"]
        assert models.find("named").version == "2.0"
        first = models.find("named", "1.0")
        assert (first.workers.min_workers, first.workers.max_workers, first.parameters.batch_size) == (2, 3, 3)
        assert [worker.status for worker in first.workers.infos()] == ["READY"] * 2
        assert not first.at_start
        assert models.why_not_ready() == {}

    with_registry(before, snapshots=directory)
    again = written(directory)["shutdown"]
    with_registry(after, snapshots=directory, model_snapshot=again.model_snapshot)
    assert written(directory)["shutdown"].model_snapshot["models"] == again.model_snapshot["models"]


def test_restored_from_torchserve(with_registry, write_mar, store, tmp_path):
    """TorchServe's own snapshot, with its escapes, is restored as if it were ours."""
    write_mar(store / "noop.mar", "noop", "1.0")
    write_mar(store / "noop_2.0.mar", "noop", "2.0")
    path = tmp_path / "20261122104448865-snapshot.cfg"
    path.write_text(THEIRS.replace("{store}", str(store)))
    settings = read_settings({}, path).settings

    async def test(registry):
        assert registry.models.find("noop").version == "2.0"
        second, first = registry.models.find("noop").parameters, registry.models.find("noop", "1.0")
        assert (second.batch_size, second.response_timeout_s, second.startup_timeout_s) == (4, 77, 33)
        assert [worker.status for worker in first.workers.infos()] == ["READY"]

    with_registry(test, model_snapshot=settings.model_snapshot)


def test_snapshot_stands_before_load_models(with_registry, write_mar, store, caplog):
    """What load_models names is not loaded beside a snapshot, and that is told."""
    write_mar(store / "a.mar", "a")

    async def test(registry):
        assert registry.models.listed() == []
        assert "load_models=a.mar has no effect: the snapshot s.cfg stands before it" in caplog.messages

    with_registry(test, load_models="a.mar", model_snapshot={"name": "s.cfg", "models": {}})


def test_archive_that_is_gone(with_registry, store, directory):
    """A snapshot that names an archive which is not there is not restored, and not written over by an empty one."""
    snapshot = {"name": "s.cfg", "models": {"m": {"1.0": {"marName": "gone.mar"}}}}

    async def test(registry):
        with pytest.raises(SnapshotInvalid) as found:
            await registry.models.start()
        assert str(found.value) == (
            "Model archive file for model :m, version :1.0 not found in model store: s.cfg says gone.mar, which is not in "
            f"{store}; mend it, or start without snapshots (--ncs)"
        )
        assert found.value.exit_code == 2

    with_registry(test, start=False, snapshots=directory, model_snapshot=snapshot)
    assert not directory.exists()


@pytest.mark.parametrize(
    ("models", "message"),
    [
        (None, "s.cfg is no snapshot: its models should be {NAME: {VERSION: {...}}}; "),
        ([], "s.cfg is no snapshot: its models should be {NAME: {VERSION: {...}}}; "),
        ({"m": 1}, "s.cfg is no snapshot: its models should be {NAME: {VERSION: {...}}}; "),
        ({"m": {"1": 2}}, "s.cfg is no snapshot: version 1 of model m is no object; "),
        ({"m": {"1": {}}}, "Model archive file for model :m, version :1 not found in model store: {says}; "),
    ],
)
def test_what_is_no_snapshot(store, models, message):
    """What has another form is told, and what to do."""
    with pytest.raises(SnapshotInvalid) as found:
        from_snapshot({"name": "s.cfg", "models": models}, store)
    says = f"s.cfg says no marName, which is not in {store}"
    assert str(found.value) == message.replace("{says}", says) + "mend it, or start without snapshots (--ncs)"


def test_archive_of_another_version(with_registry, write_mar, store):
    """An archive that is another version than the snapshot says is not loaded, and readiness tells why."""
    write_mar(store / "a.mar", "m", "2.0")

    async def test(registry):
        assert registry.models.why_not_ready() == {"a.mar": "a.mar is version 2.0 of m, and should be version 1.0"}

    with_registry(test, model_snapshot={"models": {"m": {"1.0": {"marName": "a.mar"}}}})


def test_names_ascend(directory):
    """Snapshots of one moment, and after the clock was set back, still have names in the order in which they were written."""
    moments = iter((1_700_000_000.5, 1_700_000_000.5, 1_600_000_000.0))
    snapshots = Snapshots(Settings(), directory, lambda: next(moments))

    async def write():
        for number in range(3):
            await snapshots.write("snapshot", {"m": {str(number): {}}})

    asyncio.run(write())
    found = sorted(directory.iterdir())
    assert [path.name for path in found] == [f"20231114221320{ms}-snapshot.cfg" for ms in (500, 501, 502)]
    told = [json.loads(read_properties(path)["model_snapshot"][0]) for path in found]
    assert [list(one["models"]["m"]) for one in told] == [["0"], ["1"], ["2"]]
    assert [one["created"] for one in told] == [1_700_000_000_500, 1_700_000_000_501, 1_700_000_000_502]


def test_place_that_cannot_be_written(with_registry, write_mar, store, tmp_path, caplog):
    """A snapshot that cannot be written is logged; the server goes on."""
    write_mar(store / "a.mar", "m")
    (tmp_path / "logs").write_text("a file")

    async def test(registry):
        await registry.models.register(Registration("a.mar", workers=0))

    with_registry(test, snapshots=tmp_path / "logs" / "config")
    told = [message for message in caplog.messages if message.startswith("a snapshot cannot be written, so what changed is not")]
    assert len(told) == 3


def test_off(with_registry, directory):
    """Without snapshots nothing is written."""

    async def test(registry):
        pass

    with_registry(test)
    assert not directory.exists()


def test_nothing_after_the_end(with_registry, write_mar, store, directory):
    """The last snapshot is the one from the end: what is refused then writes none."""
    write_mar(store / "a.mar", "m")

    async def test(registry):
        await registry.models.register(Registration("a.mar"))
        await registry.models.close()
        with pytest.raises(ServiceUnavailableException):
            await registry.models.register(Registration("a.mar", name="other"))

    with_registry(test, snapshots=directory)
    assert str(newest_snapshot(directory)).endswith("-shutdown.cfg")
    assert list(written(directory)["shutdown"].model_snapshot["models"]) == ["m"]

import asyncio
import contextlib
import http.server
import logging
import shutil
import threading

import pytest

from serving.torchserve.archives.mar import unpack
from serving.torchserve.errors import (
    BadRequestException,
    ConflictStatusException,
    InternalServerException,
    InvalidModelException,
    InvalidModelVersionException,
    ModelNotFoundException,
    ModelVersionNotFoundException,
    RequestTimeoutException,
    ServiceUnavailableException,
)
from serving.torchserve.jobs import Input, Job
from serving.torchserve.registry.downloads import locate
from serving.torchserve.registry.registration import Registration


def job(text="hello"):
    return Job("id", (), (Input("body", "", text.encode()),))


def workers(version):
    return [worker.status for worker in version.workers.infos()]


async def refused(error, awaitable):
    with pytest.raises(error) as found:
        await awaitable
    return str(found.value)


def test_register(with_registry, write_mar, store):
    """A registered archive has no workers until they are started; then it answers."""
    write_mar(store / "a.mar", "m", "1.5")

    async def test(registry):
        models = registry.models
        version = await models.register(Registration("a.mar", workers=1))
        assert (version.name, version.version, version.url, version.at_start) == ("m", "1.5", "a.mar", False)
        assert version.workers.infos() == []
        assert models.find("m") is models.find("m", "1.5") is version
        assert await models.start_workers(version)
        assert workers(version) == ["READY"]
        assert (await version.predict(job())).body == b"hello"

    with_registry(test)


def test_find_what_is_not_there(with_registry, write_mar, store):
    """A model or a version that is not registered is told in TorchServe's words."""
    write_mar(store / "a.mar", "m")

    async def test(registry):
        with pytest.raises(ModelNotFoundException, match=r"^Model not found: m$"):
            registry.models.find("m")
        await registry.models.register(Registration("a.mar"))
        with pytest.raises(ModelVersionNotFoundException, match=r"^Model version: 2 does not exist for model: m$"):
            registry.models.find("m", "2")
        with pytest.raises(ModelVersionNotFoundException, match=r"^Model version 2 does not exist for model m$"):
            registry.models.set_default("m", "2")

    with_registry(test)


def test_default_version(with_registry, write_mar, store):
    """The first version is the default until another is made it; the default cannot be taken away while there are others."""
    for number in ("1", "2", "10"):
        write_mar(store / f"{number}.mar", "m", number)

    async def test(registry):
        models = registry.models
        for number in ("2", "1", "10"):
            await models.register(Registration(f"{number}.mar"))
        assert models.find("m").version == "2"
        assert [version.version for version in models.versions("m")] == ["2", "1", "10"]
        models.set_default("m", "10")
        assert models.find("m").version == "10"
        for number in (None, "10"):
            message = await refused(InvalidModelVersionException, models.unregister("m", number))
            assert message == "Cannot remove default version for model m"
        await models.unregister("m", "2")
        await models.unregister("m", "1")
        await models.unregister("m")
        assert models.listed() == []

    with_registry(test)


def test_list_is_sorted(with_registry, write_mar, store):
    """Models are listed by name, each by its default version."""
    for name in ("b", "a", "B"):
        write_mar(store / f"{name}.mar", name)

    async def test(registry):
        for name in ("b", "a", "B"):
            await registry.models.register(Registration(f"{name}.mar"))
        assert [version.name for version in registry.models.listed()] == ["B", "a", "b"]

    with_registry(test)


def test_same_version_twice(with_registry, write_mar, store):
    """Of two registrations of one version at the same time one wins, whichever; the other leaves nothing."""
    write_mar(store / "a.mar", "m")

    async def test(registry):
        found = await asyncio.gather(*(registry.models.register(Registration("a.mar")) for _ in range(5)), return_exceptions=True)
        errors = [one for one in found if isinstance(one, ConflictStatusException)]
        assert [str(error) for error in errors] == ["Model version 1.0 is already registered for model m"] * 4
        assert len(registry.models.versions("m")) == 1
        assert len(list(registry.models.find("m").mar.directory.parent.iterdir())) == 1

    with_registry(test)


def test_registered_by_another_name(with_registry, write_mar, store):
    """A name that the registration gives beats the manifest's, as do handler and runtime."""
    write_mar(store / "a.mar", "m", handler="fails")

    async def test(registry):
        version = await registry.models.register(Registration("a.mar", name="other", handler="good", runtime="python3"))
        assert (version.name, version.parameters.handler, version.mar.runtime) == ("other", "good", "python3")

    with_registry(test)


@pytest.mark.parametrize(("name", "error"), [("nobody.mar", ModelNotFoundException), ("damaged.mar", InvalidModelException)])
def test_failed_registration_leaves_nothing(with_registry, store, name, error):
    """An archive that cannot be registered leaves no model and no files."""
    (store / "damaged.mar").write_bytes(b"PK\3\4 and nothing more")

    async def test(registry):
        await refused(error, registry.models.register(Registration(name)))
        assert registry.models.listed() == []

    with_registry(test)


def test_workers_that_fail_at_first(with_registry, write_mar, store):
    """A model whose first workers fail is unregistered again."""
    write_mar(store / "a.mar", "m", handler="fails")

    async def test(registry):
        version = await registry.models.register(Registration("a.mar", workers=2))
        message = await refused(InternalServerException, registry.models.start_workers(version))
        assert message == "Failed to start workers for model m version: 1.0"
        assert registry.models.listed() == []
        assert not version.mar.directory.exists()

    with_registry(test)


def test_workers_out_of_memory(with_registry, write_mar, store):
    """A model that does not fit into the memory is told with 507."""
    write_mar(store / "a.mar", "m", handler="oom")

    async def test(registry):
        version = await registry.models.register(Registration("a.mar", workers=1))
        with pytest.raises(InternalServerException) as found:
            await registry.models.start_workers(version)
        assert (found.value.status, str(found.value)) == (507, "Failed to start workers for model m version: 1.0")

    with_registry(test)


def test_large_models_are_refused(with_registry, write_mar, store):
    """An archive that asks for several processes is refused, and told which of its keys ask for that."""
    write_mar(store / "a.mar", "m", config="torchrun:\n  nproc-per-node: 2\nparallelType: tp\n")

    async def test(registry):
        message = await refused(InvalidModelException, registry.models.register(Registration("a.mar")))
        assert message == (
            "Model m asks for what is not served here: torchrun, parallelType in its model-config.yaml. A worker here is one "
            "process, on one GPU or none; take these keys out, or run the model on a server for large models."
        )

    with_registry(test)


def test_scale(with_registry, write_mar, store):
    """Workers are started until there are enough, and ended beyond the most; an error names the version as the request did."""
    write_mar(store / "a.mar", "m")
    write_mar(store / "bad.mar", "bad", handler="fails")

    async def test(registry):
        models = registry.models
        version = await models.register(Registration("a.mar"))
        assert await models.scale("m", None, 2, 2)
        assert workers(version) == ["READY"] * 2
        assert await models.scale("m", "1.0", 0, 1)
        assert workers(version) == ["READY"]
        await models.register(Registration("bad.mar"))
        for asked, told, count in ((None, "null", 1), ("1.0", "1.0", 2)):
            message = await refused(InternalServerException, models.scale("bad", asked, count, count))
            assert message == f"Failed to start workers for model bad version: {told}"
        assert models.find("bad").workers.min_workers == 2

    with_registry(test)


def test_scale_in_the_background(with_registry, write_mar, store, until, caplog):
    """Who does not wait is not told of a failure; the log is."""
    write_mar(store / "a.mar", "m")
    write_mar(store / "bad.mar", "bad", handler="fails")

    async def test(registry):
        models = registry.models
        good, bad = [await models.register(Registration(name)) for name in ("a.mar", "bad.mar")]
        models.scale_soon(good, 1, 1)
        models.scale_soon(bad, 1, 1)
        await until(lambda: good.ready and "Failed to start workers for model bad version: 1.0" in caplog.messages)
        assert models.find("bad") is bad

    with_registry(test)


def test_unregister_answers_what_is_in_flight(with_registry, write_mar, store, until):
    """Requests that wait or are being answered when their model leaves are answered; new ones do not find it."""
    write_mar(store / "a.mar", "m")

    async def test(registry):
        models = registry.models
        version = await models.register(Registration("a.mar", workers=1))
        await models.start_workers(version)
        asked = [asyncio.ensure_future(version.predict(job(f"sleep 0.{number}"))) for number in (2, 1, 1)]
        await until(lambda: version.workers.pending == 2)
        leaving = asyncio.ensure_future(models.unregister("m"))
        await asyncio.sleep(0)
        with pytest.raises(ModelNotFoundException):
            models.find("m")
        assert [reply.body for reply in await asyncio.gather(*asked)] == [b"sleep 0.2", b"sleep 0.1", b"sleep 0.1"]
        await leaving
        assert not version.mar.directory.exists()

    with_registry(test)


def test_unregister_takes_too_long(with_registry, write_mar, store, until):
    """What is in flight when the time is over is cut off, and the client that asked is told."""
    write_mar(store / "a.mar", "m")

    async def test(registry):
        models = registry.models
        version = await models.register(Registration("a.mar", workers=1))
        await models.start_workers(version)
        asked = asyncio.ensure_future(version.predict(job("hang")))
        await until(lambda: version._in_flight)
        message = await refused(RequestTimeoutException, models.unregister("m"))
        assert message == "Timed out while cleaning resources: m"
        with pytest.raises(InternalServerException):
            await asked

    with_registry(test, unregister_model_timeout=1)


def test_caller_that_leaves(with_registry, write_mar, store, until):
    """A registration goes on to its end although nobody waits for it any more."""
    write_mar(store / "a.mar", "m")

    async def test(registry):
        task = asyncio.ensure_future(registry.models.register(Registration("a.mar")))
        await asyncio.sleep(0)
        task.cancel()
        await until(lambda: registry.models.versions("m"))

    with_registry(test)


def test_without_a_store(with_registry):
    """Without a model store nothing is loaded, all is well, and nothing can be registered."""

    async def test(registry):
        assert registry.models.why_not_ready() == {}
        assert registry.models.healthy
        message = await refused(BadRequestException, registry.models.register(Registration("a.mar")))
        assert message == "There is no model store here: set model_store."

    with_registry(test, model_store=None)


def test_closed(with_registry, write_mar, store):
    """A server that ends registers nothing any more."""
    write_mar(store / "a.mar", "m")

    async def test(registry):
        await registry.models.close()
        message = await refused(ServiceUnavailableException, registry.models.register(Registration("a.mar")))
        assert message == "The server is about to end."

    with_registry(test)


def test_artifact_first(with_registry, write_mar, store, tmp_path, caplog):
    """A name that the model repository holds stays the artifact's: skipped at the start, refused later."""
    write_mar(store / "a.mar", "digits")
    (tmp_path / "repository" / "digits").mkdir(parents=True)

    async def test(registry):
        assert "a.mar is not loaded: the model repository holds an artifact called digits, which answers" in caplog.messages
        assert registry.models.listed() == []
        assert registry.models.why_not_ready() == {}
        message = await refused(ConflictStatusException, registry.models.register(Registration("a.mar")))
        assert message == (
            "The model repository holds an artifact called digits, which answers: give the archive another model_name, or take "
            "the artifact away"
        )
        assert (await registry.models.register(Registration("a.mar", name="other"))).name == "other"

    with_registry(test, load_models="a.mar")


def test_fetched_archive_leaves_with_its_model(with_registry, write_mar, store):
    """What was fetched into the store is removed with its last version, and at once where it cannot be registered."""
    (store / "new").mkdir()
    for name in ("a", "again"):
        write_mar(store / "new" / f"{name}.mar", "m")
    allowed = {"allowed_urls": "file://.*"}

    async def test(registry):
        models = registry.models
        await models.register(Registration(f"file://{store}/new/a.mar"))
        assert models.find("m").file_name == "a.mar"
        await refused(ConflictStatusException, models.register(Registration(f"file://{store}/new/again.mar")))
        assert not (store / "again.mar").exists()
        await models.register(Registration("a.mar", name="user"))
        await models.unregister("m")
        assert (store / "a.mar").exists()
        await models.unregister("user")
        assert (store / "a.mar").exists()  # it was not the one that fetched it
        shutil.rmtree(store / "new")

    with_registry(test, **allowed)


def test_fetched_archive_is_removed(with_registry, write_mar, store):
    """Unregistering removes a file that was fetched for the model."""
    (store / "new").mkdir()
    write_mar(store / "new" / "a.mar", "m")

    async def test(registry):
        await registry.models.register(Registration(f"file://{store}/new/a.mar"))
        await registry.models.unregister("m")
        assert not (store / "a.mar").exists()

    with_registry(test, allowed_urls="file://.*")


def test_load_all(with_registry, write_mar, store):
    """`all` loads every archive and every folder that is one; hidden files and other things are left alone."""
    write_mar(store / "b.mar", "b")
    write_mar(store / "a.mar", "a")
    write_mar(store / ".hidden.mar", "hidden")
    (store / "notes.txt").write_text("x")
    (store / "data").mkdir()
    shutil.unpack_archive(write_mar(store.parent / "c.zip", "c"), store / "folder")

    async def test(registry):
        listed = registry.models.listed()
        assert [(version.name, version.url, version.at_start) for version in listed] == [
            ("a", "a.mar", True),
            ("b", "b.mar", True),
            ("c", "folder", True),
        ]
        assert [workers(version) for version in listed] == [["READY"]] * 3
        assert registry.models.why_not_ready() == {}
        assert registry.models.at_start() == ["a", "b", "c"]

    with_registry(test, load_models="all", default_workers_per_model=1)


def test_load_all_of_no_store(with_registry, store, caplog):
    """A store that is not there holds nothing, and is no error: reading the settings warned of it."""
    store.rmdir()

    async def test(registry):
        assert registry.models.listed() == []

    with_registry(test, load_models="all")
    assert [record.message for record in caplog.records if record.levelno >= logging.ERROR] == []


def test_load_named(with_registry, write_mar, store):
    """`name=file` gives a model a name of its own; without, it has the manifest's."""
    write_mar(store / "a.mar", "a")

    async def test(registry):
        assert [(version.name, version.url) for version in registry.models.listed()] == [("a", "a.mar"), ("b", "a.mar")]

    with_registry(test, load_models="a.mar,b=a.mar", default_workers_per_model=1)


def test_load_what_says_too_little(with_registry, write_mar, store):
    """At the start, a nameless archive is called as its file is; one without a handler has the setting's."""
    write_mar(store / "my-model.mar", "")
    write_mar(store / "b.mar", "b", handler="")

    async def test(registry):
        loaded = [(version.name, version.mar.handler) for version in registry.models.listed()]
        assert loaded == [("b", "good"), ("my_model", "good")]
        message = await refused(InvalidModelException, registry.models.register(Registration("my-model.mar", workers=0)))
        assert message.startswith("Model name is not defined.")

    with_registry(test, load_models="all", default_service_handler="good", default_workers_per_model=1)


@pytest.mark.parametrize("word", ["", "none", "standalone", "NONE"])
def test_load_nothing(with_registry, write_mar, store, word):
    """TorchServe's words for no model name none."""
    write_mar(store / "a.mar", "a")

    async def test(registry):
        assert registry.models.listed() == []
        assert registry.models.why_not_ready() == {}

    with_registry(test, load_models=word)


def test_what_fails_at_the_start(with_registry, write_mar, store, caplog):
    """One that cannot be loaded hinders no other: the log and readiness have its reason until it is registered."""
    write_mar(store / "a.mar", "a")
    write_mar(store / "bad.mar", "bad", handler="fails")

    async def test(registry):
        models = registry.models
        assert [version.name for version in models.listed()] == ["a", "bad"]
        assert "Failed to load model: nobody.mar: Model not found at: nobody.mar" in caplog.messages
        assert "Failed to start workers for model bad version: 1.0" in caplog.messages
        assert models.why_not_ready() == {
            "nobody.mar": "Model not found at: nobody.mar",
            "bad": "bad: not all of its 1 workers are ready",
        }
        assert models.healthy  # TorchServe's own view: the worker is still being tried
        write_mar(store / "nobody.mar", "nobody")
        await models.register(Registration("nobody.mar"))
        assert list(models.why_not_ready()) == ["bad"]

    with_registry(test, load_models="nobody.mar,bad.mar,a.mar", default_workers_per_model=1)


def test_not_ready_before_the_start(with_registry, write_mar, store):
    """Until all was tried, the server is not ready."""
    write_mar(store / "a.mar", "a")

    async def test(registry):
        assert registry.models.why_not_ready() == {"*": "the models are being loaded"}
        await registry.models.start()
        assert registry.models.why_not_ready() == {}

    with_registry(test, start=False, load_models="all", default_workers_per_model=1)


def test_workers_at_the_start(with_registry, write_mar, store):
    """Without a number, a model that is loaded at the start has a worker per GPU."""
    write_mar(store / "a.mar", "a")

    async def test(registry):
        assert registry.models.find("a").workers.min_workers == 3

    with_registry(test, load_models="all", gpus=3)


def test_closes_while_it_starts(with_registry, write_mar, store, until):
    """A server that is ended while its models load ends at once, and leaves no process and no file."""
    write_mar(store / "a.mar", "a", handler="slow")

    async def test(registry):
        starting = asyncio.ensure_future(registry.models.start())
        await until(lambda: registry.models.versions("a") and registry.models.find("a").workers.infos())
        await registry.models.close()
        await starting

    with_registry(test, start=False, load_models="all", default_workers_per_model=1)


@pytest.fixture
def trickle(monkeypatch):
    """The address of an archive that comes byte by byte, until nobody wants it any more, and an event: it has begun to come."""
    monkeypatch.setenv("no_proxy", "*")
    begun, over = threading.Event(), threading.Event()

    class Trickle(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            with contextlib.suppress(ConnectionError):
                while not over.wait(0.01):
                    self.wfile.write(b"x")
                    begun.set()

        def log_message(self, format, *args):  # noqa: A002
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Trickle)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/slow.mar", begun
    over.set()
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("leaves", [False, True])
def test_closes_while_it_fetches(with_registry, store, until, trickle, caplog, leaves):  # noqa: PLR0917
    """A server that is ended while an archive comes slowly gives it up, also where nobody waits for it any more."""
    url, begun = trickle

    async def test(registry):
        starting = asyncio.ensure_future(registry.models.start())
        await until(begun.is_set)
        if leaves:
            starting.cancel()
        await asyncio.wait_for(registry.models.close(), 10)
        await asyncio.wait({starting})
        assert starting.cancelled() == leaves
        assert list(store.iterdir()) == []
        assert not [record for record in caplog.records if record.levelno >= logging.WARNING]

    with_registry(test, start=False, load_models=url, allowed_urls="http://.*")


def test_closes_while_it_unpacks(with_registry, write_mar, store, until, monkeypatch):
    """A server that is ended while an archive is unpacked stops at the next piece, and leaves nothing of it."""
    (store / "new").mkdir()
    write_mar(store / "new" / "a.mar", "a")
    begun, goes_on = threading.Event(), threading.Event()

    def unpack_late(*arguments):
        begun.set()
        goes_on.wait(60)
        return unpack(*arguments)

    monkeypatch.setattr("serving.torchserve.registry.prepared.unpack", unpack_late)

    async def test(registry):
        registering = asyncio.ensure_future(registry.models.register(Registration(f"file://{store}/new/a.mar", workers=0)))
        await until(begun.is_set)
        closing = asyncio.ensure_future(registry.models.close())
        await asyncio.sleep(0)
        goes_on.set()
        assert await refused(ServiceUnavailableException, registering) == "The server is about to end."
        await closing
        assert [path.name for path in store.iterdir()] == ["new"]

    with_registry(test, allowed_urls="file://.*")


def test_slow_archives_hinder_nobody_else(with_registry, store, until, trickle):
    """However many archives come slowly, the threads that all others share are free."""
    url, begun = trickle

    async def test(registry):
        slow = [asyncio.ensure_future(registry.models.register(Registration(url, workers=0))) for _ in range(40)]
        await until(begun.is_set)
        assert await asyncio.wait_for(asyncio.to_thread(bool), 10) is False
        await registry.models.close()
        await asyncio.gather(*slow, return_exceptions=True)
        assert list(store.iterdir()) == []

    with_registry(test, allowed_urls="http://.*")


def test_fetched_archive_comes_back(with_registry, write_mar, store, caplog):
    """What load_models fetched is in the store at the next start, and taken from there; it stays when its model leaves."""
    (store / "new").mkdir()
    url = f"file://{write_mar(store / 'new' / 'a.mar', 'a')}"
    settings = {"load_models": url, "allowed_urls": "file://.*", "default_workers_per_model": 1}

    async def first(registry):
        assert registry.models.why_not_ready() == {}

    async def second(registry):
        assert registry.models.why_not_ready() == {}
        assert f"{url} is not fetched: the model store holds a.mar, which is taken" in caplog.messages
        await registry.models.unregister("a")
        assert (store / "a.mar").exists()
        message = await refused(InternalServerException, registry.models.register(Registration(url, workers=0)))
        assert message == "Model file already exists a.mar"

    with_registry(first, **settings)
    with caplog.at_level(logging.INFO):
        with_registry(second, **settings)


@pytest.mark.parametrize(
    ("wanted", "config", "count"),
    [
        (Registration("a.mar", workers=0), "minWorkers: 1025\nmaxWorkers: 1025\n", 1025),
        (Registration("a.mar", scaled=(5000, 5000)), None, 5000),
        (Registration("a.mar"), None, 2000),
    ],
)
def test_too_many_workers(with_registry, write_mar, store, wanted, config, count):  # noqa: PLR0917
    """A model that is to start with more than 1024 workers, whoever says so, is refused."""
    write_mar(store / "a.mar", "m", config=config)

    async def test(registry):
        message = await refused(InvalidModelException, registry.models.register(wanted))
        assert message == f"Model m should have {count} workers; it can have 1024 at most."

    with_registry(test, models={"m": {"1.0": {"minWorkers": 2000}}})


def test_unpacked_apart(with_registry, write_mar, store):
    """Versions of one archive are unpacked in folders of their own."""
    write_mar(store / "a.mar", "a")

    async def test(registry):
        first, second = [await registry.models.register(Registration("a.mar", name=name)) for name in ("x", "y")]
        assert first.mar.directory != second.mar.directory

    with_registry(test)


def test_blocking_work_is_not_on_the_loop(with_registry, write_mar, store, monkeypatch):
    """Fetching and unpacking happen in threads."""
    write_mar(store / "a.mar", "a")
    seen = []

    def noted(*arguments, **more):
        seen.append(threading.current_thread())
        return locate(*arguments, **more)

    monkeypatch.setattr("serving.torchserve.registry.prepared.locate", noted)

    async def test(registry):
        await registry.models.register(Registration("a.mar"))
        assert threading.main_thread() not in seen
        assert seen

    with_registry(test)


def test_log_of_a_version(with_registry, write_mar, store, caplog):
    """What comes and goes is logged, with model and version."""
    write_mar(store / "a.mar", "a", "3")

    async def test(registry):
        with caplog.at_level(logging.INFO):
            await registry.models.register(Registration("a.mar"))
            await registry.models.unregister("a")
        told = [(record.message, record.model, record.version) for record in caplog.records if hasattr(record, "model")]
        assert told == [("registered a version 3, from a.mar", "a", "3"), ("a version 3 left", "a", "3")]

    with_registry(test)

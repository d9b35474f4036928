import pytest

from serving.settings import Settings
from serving.torchserve.archives.mar import unpack
from serving.torchserve.registry.registration import Registration, parameters, restored

YAML = "minWorkers: 2\nmaxWorkers: 3\nbatchSize: 4\nmaxBatchDelay: 50\nresponseTimeout: 60\nstartupTimeout: 61\n"
MODELS = {"m": {"1.0": {"minWorkers": 5, "maxWorkers": 6, "batchSize": 7, "maxBatchDelay": 8, "responseTimeout": 9}}}


@pytest.fixture
def held(write_mar, tmp_path):
    """A function that gives what holds of an archive with this model-config.yaml; two workers by default."""

    def hold(wanted, config=None, **settings):
        mar = unpack(write_mar(tmp_path / "a.mar", "m", config=config), tmp_path / "models")
        return parameters(wanted, mar, Settings(**settings), 2)

    return hold


def numbers(found):
    workers = (found.min_workers, found.max_workers)
    return workers, found.batch_size, found.max_batch_delay_ms, found.response_timeout_s, found.startup_timeout_s


def test_defaults(held):
    """Where nobody says anything, TorchServe's defaults hold; the settings have some of them."""
    found = held(Registration("a.mar", workers=0))
    assert numbers(found) == ((0, 0), 1, 100, 120, 120)
    assert (found.max_retry_timeout_s, found.client_timeout_ms, found.job_queue_size) == (300, 0, 100)
    settings = {"default_response_timeout": 11, "default_startup_timeout": 12, "job_queue_size": 13}
    found = held(Registration("a.mar", workers=0), **settings)
    assert numbers(found) == ((0, 0), 1, 100, 11, 12)
    assert found.job_queue_size == 13


def test_request_alone(held):
    """What a registration says holds where nothing else says more."""
    wanted = Registration("a.mar", batch_size=8, max_batch_delay_ms=0, response_timeout_s=3, startup_timeout_s=4, workers=1)
    assert numbers(held(wanted)) == ((1, 1), 8, 0, 3, 4)


def test_yaml_beside_the_request(held):
    """For batches the request beats the archive's YAML; for workers and timeouts the YAML beats the request, as in TorchServe."""
    wanted = Registration("a.mar", batch_size=8, max_batch_delay_ms=1, response_timeout_s=3, startup_timeout_s=4, workers=1)
    assert numbers(held(wanted, YAML)) == ((2, 3), 8, 1, 60, 61)


def test_yaml_beside_the_setting(held):
    """The archive's YAML beats the setting `models`."""
    assert numbers(held(Registration("a.mar"), YAML, models=MODELS)) == ((2, 3), 4, 50, 60, 61)


def test_setting_at_the_start(held):
    """The setting `models` says how many workers there are at the start, and what else nobody says."""
    assert numbers(held(Registration("a.mar"), models=MODELS)) == ((5, 6), 7, 8, 9, 120)


def test_setting_beside_a_request(held):
    """For a registration by a client the setting `models` has its say in all but workers."""
    assert numbers(held(Registration("a.mar", workers=0), models=MODELS)) == ((0, 0), 7, 8, 9, 120)


def test_most_workers_at_the_start(held):
    """Where the setting gives only the least number, the most are the default, or no fewer than the least."""
    assert numbers(held(Registration("a.mar"), models={"m": {"1.0": {"minWorkers": 1}}}))[0] == (1, 2)
    assert numbers(held(Registration("a.mar"), models={"m": {"1.0": {"minWorkers": 4}}}))[0] == (4, 4)


def test_setting_of_another_version(held):
    """What the setting says of another version is not said of this one."""
    assert held(Registration("a.mar"), models={"m": {"2.0": {"batchSize": 9}}}).batch_size == 1


@pytest.mark.parametrize("config", ["minWorkers: 2\n", "minWorkers: 2\nmaxWorkers: 1\n", "minWorkers: 0\nmaxWorkers: 3\n"])
def test_yaml_needs_both_numbers_of_workers(held, config):
    """A YAML's workers count only with a most that is no less than the least, as in TorchServe."""
    assert numbers(held(Registration("a.mar", workers=1), config))[0] == (1, 1)


def test_least_without_most_is_told(held, caplog):
    """Who wrote minWorkers alone is told why it does not count."""
    held(Registration("a.mar", workers=1), "minWorkers: 2\n")
    assert caplog.messages == ["m: minWorkers of its model-config.yaml counts only with a maxWorkers that is no less"]


def test_batch_of_nothing(held):
    """A batch has one request at least."""
    assert held(Registration("a.mar", batch_size=0)).batch_size == 1


def test_other_keys_of_the_yaml(held):
    """Only the YAML can say how long a worker is tried again, how long a job may wait, and on what device."""
    numbers = "maxRetryTimeoutInSec: 44\nclientTimeoutInMills: 5000\njobQueueSize: 7\n"
    config = f"{numbers}deviceType: gpu\ndeviceIds: [1, 2]\nuseVenv: true\n"
    found = held(Registration("a.mar"), config)
    assert (found.max_retry_timeout_s, found.client_timeout_ms, found.job_queue_size) == (44, 5000, 7)
    assert (found.device_type, found.device_ids, found.use_venv) == ("gpu", (1, 2), True)


def test_settings_for_all(held):
    """The form of bodies, and whether batches are waited for, are the server's."""
    found = held(Registration("a.mar"), service_envelope="kserve", strict_batch_delay=True)
    assert (found.envelope, found.strict_batch_delay) == ("kserve", True)


def test_snapshot_beats_all(held):
    """What a snapshot says was in force last, and holds again."""
    entry = {"marName": "a.mar", "minWorkers": 1, "maxWorkers": 4, "batchSize": 2, "maxBatchDelay": 3, "responseTimeout": 5}
    assert numbers(held(restored("m", "1.0", entry), YAML, models=MODELS)) == ((1, 4), 2, 3, 5, 61)


def test_snapshot_without_workers(held):
    """A model that was scaled to nothing stays so, whatever the YAML says."""
    entry = {"marName": "a.mar", "minWorkers": 0, "maxWorkers": 0}
    assert numbers(held(restored("m", "1.0", entry), YAML))[0] == (0, 0)


def test_snapshot_of_a_version():
    """A snapshot's entry says which archive, version and handler; what is not of its type counts as not said."""
    entry = {
        "marName": "a.mar",
        "defaultVersion": True,
        "handler": "h",
        "runtimeType": "python3",
        "batchSize": "x",
        "maxBatchDelay": None,
    }
    found = restored("m", "2", entry)
    assert (found.url, found.name, found.version, found.handler, found.runtime) == ("a.mar", "m", "2", "h", "python3")
    assert (found.is_default, found.batch_size, found.max_batch_delay_ms, found.scaled) == (True, None, None, None)

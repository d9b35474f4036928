"""model-config.yaml: what the server reads of it, as TorchServe reads it."""

import logging

import pytest

from serving.torchserve.archives.model_config import ModelConfig, read_model_config
from serving.torchserve.errors import InvalidModelException


@pytest.fixture
def read(tmp_path):
    def read(text):
        path = tmp_path / "model-config.yaml"
        path.write_text(text)
        return read_model_config(path)

    return read


def test_every_key(read):
    """Each key that is the server's has a field, in its own unit."""
    assert read("""
        minWorkers: 1
        maxWorkers: 2
        batchSize: 4
        maxBatchDelay: 200
        responseTimeout: 60
        startupTimeout: 70
        maxRetryTimeoutInSec: 80
        clientTimeoutInMills: 90
        jobQueueSize: 7
        deviceType: gpu
        deviceIds: [0, 3]
        useVenv: true
    """) == ModelConfig(
        min_workers=1,
        max_workers=2,
        batch_size=4,
        max_batch_delay_ms=200,
        response_timeout_s=60,
        startup_timeout_s=70,
        max_retry_timeout_s=80,
        client_timeout_ms=90,
        job_queue_size=7,
        device_type="gpu",
        device_ids=(0, 3),
        use_venv=True,
    )


def test_the_handlers_own_keys(read):
    """Any other key is the handler's: whatever it holds, the server has no opinion."""
    assert (
        read("handler: {batchSize: 9, 1: one}\npt2: {compile: {enable: true}}\nbatch_size: 3\nwhen: 2024-01-02") == ModelConfig()
    )


@pytest.mark.parametrize(
    ("text", "batch_size"),
    [("0x10", 16), ("010", 8), ("1_0", 10), ("2\nbatchSize: 3", 3), ("&size 5\nother: *size", 5)],
)
def test_numbers_as_yaml_has_them(read, text, batch_size):
    """Numbers in other bases, with underscores, twice (the last counts) or as aliases are read as TorchServe reads them."""
    assert read(f"batchSize: {text}").batch_size == batch_size


def test_merged_keys(read):
    """Keys that are merged in count, as in TorchServe."""
    assert read("common: &common {batchSize: 3}\n<<: *common").batch_size == 3


@pytest.mark.parametrize("value", ["2.7", "'3'", "abc", "true", "99999999999", "null", "-1"])
@pytest.mark.parametrize(
    ("key", "least"),
    [
        ("minWorkers", 0),
        ("maxWorkers", 0),
        ("batchSize", 1),
        ("maxBatchDelay", 1),
        ("responseTimeout", 1),
        ("startupTimeout", 1),
        ("maxRetryTimeoutInSec", 0),
        ("clientTimeoutInMills", 0),
        ("jobQueueSize", 1),
    ],
)
def test_numbers_that_are_none(read, caplog, key, least, value):
    """A number of a wrong type, too small or too large counts as not given, and the log says so."""
    assert read(f"{key}: {value}") == ModelConfig()

    (record,) = caplog.records
    shown = {"'3'": "'3'", "abc": "'abc'", "true": "True", "null": "None"}.get(value, value)
    assert record.levelno == logging.WARNING
    assert record.message == (
        f"model-config.yaml: {key} is {shown}; it should be a whole number from {least} to 2147483647. It counts as not given."
    )


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("deviceType: tpu", "deviceType is 'tpu'; it should be one of cpu, gpu."),
        ("deviceType: 5", "deviceType is 5; it should be one of cpu, gpu."),
        ("deviceIds: 3", "deviceIds is 3; it should be a list of whole numbers from 0."),
        ("deviceIds: [0, a]", "deviceIds is [0, 'a']; it should be a list of whole numbers from 0."),
        ("deviceIds: [-1]", "deviceIds is [-1]; it should be a list of whole numbers from 0."),
        ("useVenv: 'true'", "useVenv is 'true'; it should be true or false."),
        ("useVenv: 1", "useVenv is 1; it should be true or false."),
    ],
)
def test_other_values_that_are_none(read, caplog, text, told):
    """So does any other value of a wrong type."""
    assert read(text) == ModelConfig()
    assert [record.message for record in caplog.records] == [f"model-config.yaml: {told} It counts as not given."]


@pytest.mark.parametrize(("text", "device"), [("CPU", "cpu"), ("GPU", "gpu")])
def test_words_in_capitals(read, text, device):
    """Words may be in capitals."""
    assert read(f"deviceType: {text}").device_type == device


def test_large_models(read):
    """What only large models need is told, key by key in the file's order."""
    config = read("torchrun: {nproc-per-node: 4}\nparallelType: TP\nparallelLevel: 2\ncontinuousBatching: true")

    assert config == ModelConfig(unsupported=("torchrun", "parallelType", "continuousBatching"))


@pytest.mark.parametrize("key", ["continuousBatching", "sequenceBatching", "asyncCommunication", "useJobTicket"])
def test_switches_of_large_models(read, key):
    """A switch of large models is told of where it is on."""
    assert read(f"{key}: true").unsupported == (key,)
    assert read(f"{key}: false").unsupported == ()


def test_a_few_aliases_do_no_harm(read):
    """Values that stand for others are read: each counts where it stands."""
    assert read("sizes: &sizes [1, 2]\na: *sizes\nb: *sizes\ndeviceIds: *sizes").device_ids == (1, 2)


def test_no_yaml(read):
    """What is no YAML is refused, with what was expected: the worker would die of it."""
    with pytest.raises(InvalidModelException) as told:
        read("- batchSize: 4")

    assert str(told.value) == (
        "Failed to parse model config file model-config.yaml: it is not a mapping with texts as keys, as in batchSize: 4. Mend "
        "it, and pack the archive again."
    )

"""Settings come from flags, then variables, then config.properties, then the defaults; what is wrong is named with its source."""

import json
import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import SettingsError
from serving.properties import escaped, read_properties, unescaped
from serving.read_settings import read_settings, to_properties
from serving.settings import GROUPS, ModelSettings, Settings, VersionPolicy, as_text, flag_name, group, is_switch, what_it_does
from serving.torchserve.keys import WITHOUT_EFFECT, connectors

PROJECT = Path(__file__).parents[2]
DOCS = (PROJECT / "docs" / "settings.md").read_text()
UNITS = {"s": "s", "ms": "ms", "bytes": "bytes", "rows": "rows"}
LABELS_ELSEWHERE = 'labels belong to one model: model_settings={"NAME": {"labels": {"stable": 1}}}'
OWN_FILE = {
    "model_store": Path("model_store"),
    "load_models": ("all",),
    "disable_token_authorization": True,
    "default_workers_per_model": 1,
}
LATEST = VersionPolicy(latest=1)


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    """An empty current directory, and no variables of this machine."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith(("STATESERVE_", "TS_"))]:
        monkeypatch.delenv(name)


def write(text, name="config.properties"):
    Path(name).write_text(text)
    return Path(name)


def settings_of(text):
    write(text)
    return read_settings({}, None).settings


def refused(text):
    with pytest.raises(SettingsError) as caught:
        settings_of(text)
    return str(caught.value)


def test_defaults():
    """Without anything said, the defaults hold, and nothing has a source."""
    read = read_settings({}, None)

    assert read.settings == Settings()
    assert (read.sources, read.ignored) == ({}, ())
    assert {name: getattr(read.settings, name) for name in Settings.model_fields if group(name) != "TorchServe"} == {
        "engine": "auto",
        "threads": None,
        "instances": None,
        "device": "auto",
        "device_memory_bytes": None,
        "precision": "auto",
        "frontends": None,
        "pin_frontends": "auto",
        "slots_bytes": 256 << 20,
        "version_policy": LATEST,
        "max_batch_rows": None,
        "preferred_batch_sizes": (),
        "max_delay_ms": 0.0,
        "max_queue_rows": None,
        "priority_levels": 3,
        "default_priority": 2,
        "default_timeout_s": None,
        "execution": "auto",
        "required": True,
        "repository": Path("model_repository"),
        "repository_cache": None,
        "host": "127.0.0.1",
        "port": 8080,
        "poll_interval_s": 0.0,
        "repository_api": "auto",
        "drain_delay_s": 0.0,
        "drain_timeout_s": 30.0,
        "ui": True,
        "decode_threads": None,
        "compress_min_bytes": 1024,
        "max_body_bytes": 67108864,
        "max_tensors": 64,
        "max_json_depth": 64,
        "max_image_pixels": 25_000_000,
        "max_image_frames": 1,
        "max_text_bytes": 262144,
        "max_tokens": 262144,
        "input_urls": (),
        "input_urls_private": False,
        "max_header_bytes": 65536,
        "max_connections": 1024,
        "header_timeout_s": 60.0,
        "body_timeout_s": 60.0,
        "answer_timeout_s": 60.0,
        "access_log": False,
        "log_format": "json",
        "model_settings": {},
    }


def test_precedence(monkeypatch):
    """A flag comes before a variable, a variable before the file, the file before the default; each says so."""
    write("port=1001\nthreads=1\nhost=::1\n")
    monkeypatch.setenv("STATESERVE_PORT", "1002")
    monkeypatch.setenv("STATESERVE_THREADS", "2")
    read = read_settings({"port": "1003", "host": None}, None)
    settings = read.settings

    assert (settings.port, settings.threads, settings.host, settings.drain_timeout_s) == (1003, 2, "::1", 30)
    assert read.sources == {"port": "--port", "threads": "STATESERVE_THREADS", "host": "config.properties:3"}


def test_a_named_file_replaces_the_one_that_is_there():
    """With --config, ./config.properties is not read."""
    write("port=1001\n")
    other = write("host=::1\n", "other.properties")

    assert read_settings({}, other).settings.port == 8080


@pytest.mark.parametrize("separator", ["=", " = ", "=  ", "\t=\t"])
def test_the_format(separator):
    """`key=value` with or without spaces, comments with # and !, and empty lines: TorchServe's own."""
    path = write(f"# a comment\n! another\n\n  port{separator}1001  \nrepository=models=old\n")

    assert read_properties(path) == {"port": ("1001", 4), "repository": ("models=old", 5)}


def test_continued_lines():
    """A backslash at a line's end goes on with the next line, comment signs and all; two are one backslash."""
    path = write('models={\\\n  "a": {},\\\n#b\\\n}\nhost=a\\\\\nport=1\\')

    assert read_properties(path) == {"models": ('{"a": {},#b}', 1), "host": ("a\\", 5), "port": ("1", 6)}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (r"http\://127.0.0.1\:8080", "http://127.0.0.1:8080"),
        (r"https\://a\\.b/.*", r"https://a\.b/.*"),
        (r"{\n  \"a\"\: 1\n}", '{\n  "a": 1\n}'),
        (r"\u00e9\t\q", "é\tq"),
    ],
)
def test_escapes(text, value):
    """A backslash is read as Java reads it, so that TorchServe's own snapshots are."""
    assert read_properties(write(f"models={text}\n")) == {"models": (value, 1)}


@given(st.text(alphabet="ab\\=:#! \n\r\tu0é{}"))
def test_an_escaped_text_is_read_back(text):
    """What is written escaped is the same when it is read."""
    assert unescaped(escaped(text)) == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("host=::1\nprot=1\n", "config.properties:2: unknown key prot; nearest: port"),
        ("inference_adress=x\n", "config.properties:1: unknown key inference_adress; nearest: inference_address"),
        ("labels={}\n", f"config.properties:1: unknown key labels; {LABELS_ELSEWHERE}"),
        ("\n\nzzzzzzz=1\n", f"config.properties:3: unknown key zzzzzzz; known: {', '.join(Settings.model_fields)}"),
        (
            "prot=1\nhots=1\n",
            "config.properties:1: unknown key prot; nearest: port; config.properties:2: unknown key hots; nearest: host",
        ),
        ("port=1\n# x\nport=2\n", "config.properties:3: port stands twice, first on line 1"),
        ("port 8080\n", "config.properties:1: 'port 8080' is not key=value"),
        ("=8080\n", "config.properties:1: '=8080' is not key=value"),
    ],
)
def test_wrong_files(text, message):
    """Every mistake in the file is named with its line, and what was probably meant."""
    assert refused(text) == message


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("port=many", "'many' (config.properties:1): Input should be a valid integer, unable to parse string as an integer"),
        ("port=0", "'0' (config.properties:1): Input should be greater than or equal to 1"),
        ("port=65536", "'65536' (config.properties:1): Input should be less than or equal to 65535"),
        ("host=", "'' (config.properties:1): String should have at least 1 character"),
        ("threads=0", "'0' (config.properties:1): Input should be greater than or equal to 1"),
        ("engine=tf", "'tf' (config.properties:1): Input should be 'auto', 'onnx', 'torchscript' or 'pt2'"),
        ("max_body_bytes=0", "0 (config.properties:1): Input should be greater than or equal to 1"),
        (
            "max_body_bytes=64MB",
            "'64MB' (config.properties:1): it should be a number of bytes, as in 65536, 64KiB, 64MiB or 1GiB",
        ),
        ("drain_timeout_s=-1", "'-1' (config.properties:1): Input should be greater than or equal to 0"),
        ("drain_timeout_s=nan", "'nan' (config.properties:1): Input should be a finite number"),
        ("drain_timeout_s=inf", "'inf' (config.properties:1): Input should be a finite number"),
        ("default_timeout_s=0", "'0' (config.properties:1): Input should be greater than 0"),
        ("access_log=maybe", "'maybe' (config.properties:1): Input should be a valid boolean, unable to interpret input"),
        (
            "version_policy=latest:0",
            "'latest:0' (config.properties:1): it should be latest:N, all, or versions:N,N, with whole numbers from 1",
        ),
        ("preferred_batch_sizes=8,4", "'8,4' (config.properties:1): the sizes should ascend, as in 4,8,16"),
        ("default_priority=4", "'4' (config.properties:1): it is above priority_levels, which is 3"),
        ("default_priority=2\npriority_levels=1", "'2' (config.properties:1): it is above priority_levels, which is 1"),
        ("preferred_batch_sizes=4,8\nmax_batch_rows=6", "'4,8' (config.properties:1): 8 is above max_batch_rows, which is 6"),
        ("max_queue_rows=4\nmax_batch_rows=8", "'4' (config.properties:1): a full batch could not wait: max_batch_rows is 8"),
        (
            "default_timeout_s=0.5\nmax_delay_ms=500",
            "'0.5' (config.properties:1): a lone request would never be answered: max_delay_ms is 500",
        ),
        (
            "model_settings={",
            "'{' (config.properties:1): Expecting property name enclosed in double quotes: line 1 column 2 (char 1)",
        ),
        ('model_settings={"a": {}, "a": {}}', "'{\"a\": {}, \"a\": {}}' (config.properties:1): 'a' stands twice in one object"),
        ("model_settings=[]", "[] (config.properties:1): Input should be a valid dictionary"),
    ],
)
def test_wrong_values(text, problem):
    """A wrong value is named with where it comes from and what was expected."""
    assert refused(text) == f"wrong setting: {text.partition('=')[0]} is {problem}"


def test_a_default_that_no_longer_fits():
    """What is said must fit the defaults that hold too: one priority level needs another default priority."""
    assert refused("priority_levels=1\n") == (
        "wrong setting: default_priority is 2 (default): it is above priority_levels, which is 1"
    )


def test_all_that_is_wrong_is_told_at_once(monkeypatch):
    """Several wrong values, from several sources and of several models, are one message; what models take over is told once."""
    own = {"a": {"threds": 1, "instances": 0}, "b": {"execution": [1], "labels": {"2": 2, "new": 0}}, "c": 3}
    write(f"engine=tf\nmodel_settings={json.dumps(own)}\n")
    monkeypatch.setenv("STATESERVE_PRIORITY_LEVELS", "1")
    with pytest.raises(SettingsError) as caught:
        read_settings({"port": "0"}, None)

    assert str(caught.value).removeprefix("wrong setting: ").split("; ") == [
        "engine is 'tf' (config.properties:1): Input should be 'auto', 'onnx', 'torchscript' or 'pt2'",
        "default_priority is 2 (default): it is above priority_levels, which is 1",
        "port is '0' (--port): Input should be greater than or equal to 1",
        "model_settings.a.instances is 0 (config.properties:2): Input should be greater than or equal to 1",
        "model_settings.a.threds (config.properties:2) is unknown",
        "nearest: threads",
        "model_settings.b.execution is [1] (config.properties:2): Input should be 'auto', 'loop', 'thread' or 'process'",
        "model_settings.b.labels.2.[key] is '2' (config.properties:2): String should match pattern '^[A-Za-z][A-Za-z0-9_-]*$'",
        "model_settings.b.labels.new is 0 (config.properties:2): Input should be greater than or equal to 1",
        "model_settings.c is 3 (config.properties:2): Input should be a valid dictionary or instance of ModelSettings",
    ]


@pytest.mark.parametrize(
    ("own", "problem"),
    [
        ('{"threds": 1}', "model_settings.a.threds (config.properties:1) is unknown; nearest: threads"),
        ('{"port": 1}', "model_settings.a.port (config.properties:1) is unknown; it is the server's, not a model's"),
        ("3", "model_settings.a is 3 (config.properties:1): Input should be a valid dictionary or instance of ModelSettings"),
    ],
)
def test_wrong_settings_of_one_model(own, problem):
    """A mistake in one model's settings is named with the model."""
    assert refused(f'model_settings={{"a": {own}}}\n') == f"wrong setting: {problem}"


def test_an_unknown_variable(monkeypatch):
    """A variable with our prefix and an unknown name is a mistake too, also where TorchServe's file has such a key."""
    monkeypatch.setenv("STATESERVE_PROT", "1")
    monkeypatch.setenv("STATESERVE_VMARGS", "1")

    with pytest.raises(SettingsError) as caught:
        read_settings({}, None)
    assert "unknown variable STATESERVE_PROT; nearest: port" in str(caught.value)
    assert "unknown variable STATESERVE_VMARGS; known: " in str(caught.value)


def test_a_missing_file():
    """A file that was named and is not there is an error, not the defaults."""
    with pytest.raises(SettingsError, match=r"^nowhere\.properties cannot be read: .*No such file or directory"):
        read_settings({}, Path("nowhere.properties"))


def test_a_file_that_is_no_text():
    """Nor is one that is not UTF-8."""
    Path("config.properties").write_bytes(b"port=\xff\n")

    with pytest.raises(SettingsError, match=r"^config\.properties cannot be read: 'utf-8' codec can't decode"):
        read_settings({}, None)


def test_settings_do_not_change():
    """Settings are frozen once read, those of a model too."""
    for settings in (Settings(), ModelSettings()):
        with pytest.raises(ValueError, match="frozen"):
            settings.threads = 1  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize(
    ("text", "value"), [("0", 0), ("65536", 65536), ("64KiB", 65536), ("64 KiB", 65536), ("3MiB", 3 << 20), ("1GiB", 1 << 30)]
)
def test_bytes(text, value):
    """A size is a number of bytes, with or without KiB, MiB, GiB."""
    assert settings_of(f"compress_min_bytes={text}\n").compress_min_bytes == value


@pytest.mark.parametrize(
    ("text", "value"), [(word, word in {"true", "on", "1"}) for word in ("true", "false", "on", "off", "1", "0")]
)
def test_switches(text, value):
    """A switch is true, on, 1, or false, off, 0."""
    assert settings_of(f"access_log={text}\n").access_log is value


@pytest.mark.parametrize(("text", "sizes"), [("4,8,16", (4, 8, 16)), ("4, 8", (4, 8)), ("4", (4,)), ("none", ()), ("", ())])
def test_preferred_batch_sizes(text, sizes):
    """Sizes are separated by commas; none is none."""
    assert settings_of(f"preferred_batch_sizes={text}\n").preferred_batch_sizes == sizes


def test_none(monkeypatch):
    """`none` takes back what a weaker source says, where there can be no value."""
    write("threads=2\ndefault_timeout_s=1\n")
    monkeypatch.setenv("STATESERVE_THREADS", "none")
    settings = read_settings({"default_timeout_s": "none"}, None).settings

    assert (settings.threads, settings.default_timeout_s) == (None, None)


@pytest.mark.parametrize(
    ("text", "policy", "chosen"),
    [
        ("latest", LATEST, [10]),
        ("latest:1", LATEST, [10]),
        ("latest:2", VersionPolicy(latest=2), [3, 10]),
        ("latest:9", VersionPolicy(latest=9), [1, 3, 10]),
        ("all", VersionPolicy(), [1, 3, 10]),
        ("versions:3,1", VersionPolicy(versions=(1, 3)), [1, 3]),
        ("3", VersionPolicy(versions=(3,)), [3]),
        ("3,3,7", VersionPolicy(versions=(3, 7)), [3]),
    ],
)
def test_version_policies(text, policy, chosen):
    """A policy chooses among the versions that are there, ascending, and is read from what it is written as."""
    assert VersionPolicy.parse(text) == policy
    assert VersionPolicy.parse(str(policy)) == policy
    assert policy.chosen([10, 1, 3]) == chosen
    assert policy.chosen([]) == []


@given(st.text(alphabet="0123456789,:latesvrionp ٣", max_size=20))
def test_any_text_is_a_policy_or_refused(text):
    """No text makes a policy that chooses nothing by its own fault, or an error of another kind."""
    try:
        policy = VersionPolicy.parse(text)
    except ValueError as error:
        assert str(error).startswith("it should be latest:N, all, or versions:N,N")  # noqa: PT017 - half of the texts raise
    else:
        assert policy.latest is None or policy.latest > 0
        assert policy.versions is None or min(policy.versions) > 0


def test_the_settings_of_one_model():
    """A model's own values come before the server's; what it does not say is the server's; other models have the server's."""
    own = {"digits": {"threads": 2, "version_policy": "all", "max_queue_rows": None, "labels": {"stable": 1, "canary-2": 2}}}
    settings = settings_of(f"threads=4\nmax_queue_rows=64\ninstances=3\nmodel_settings={json.dumps(own)}\n")
    digits, other = settings.model("digits"), settings.model("other")

    assert (digits.threads, digits.version_policy, digits.max_queue_rows, digits.instances) == (2, VersionPolicy(), None, 3)
    assert digits.labels == {"stable": 1, "canary-2": 2}
    assert (other.threads, other.version_policy, other.max_queue_rows, other.instances) == (4, LATEST, 64, 3)
    assert other.labels == {}


def test_a_model_is_checked_as_it_will_be_served():
    """What one model changes must fit what it takes over from the server."""
    write('max_batch_rows=16\npreferred_batch_sizes=8,16\npriority_levels=9\nmodel_settings={"a": {"max_batch_rows": 8}}\n')
    with pytest.raises(SettingsError) as caught:
        read_settings({}, None)
    assert str(caught.value) == (
        "wrong setting: model_settings.a.preferred_batch_sizes is 8,16 (config.properties:4): "
        "16 is above max_batch_rows, which is 8"
    )
    assert settings_of('priority_levels=9\nmodel_settings={"a": {"default_priority": 9}}\n').model("a").default_priority == 9


def test_torchserve_s_keys():
    """TorchServe's keys that have no effect here are accepted in the file and told, not refused."""
    path = write("io_ratio=70\nport=1\nkeystore_pass=secret\nvmargs=-Xmx1g \\\n  -Xms1g\n")
    read = read_settings({}, path)

    assert (read.settings.port, read.ignored) == (1, ("io_ratio", "vmargs"))
    assert not WITHOUT_EFFECT.keys() & Settings.model_fields.keys()


def test_a_password_is_not_printed():
    """--print-settings says that the keystore's password is set, and not what it is."""
    read = read_settings({}, write("keystore_pass=secret\n"))

    assert read.settings.keystore_pass == "secret"
    assert "secret" not in to_properties(read) + repr(read.settings)
    assert "# config.properties:1\n# keystore_pass is not shown\n" in to_properties(read)


def test_what_is_printed_is_a_config(monkeypatch):
    """The settings as printed are read back as the same settings; comments say where each value comes from."""
    own = {"a": {"threads": 1, "labels": {"stable": 1}, "version_policy": "1,2", "max_batch_rows": None}, "b": {}}
    write(f"max_body_bytes=3MiB\npreferred_batch_sizes=4,8\nio_ratio=7\nmax_batch_rows=9\nmodel_settings={json.dumps(own)}\n")
    monkeypatch.setenv("STATESERVE_MAX_DELAY_MS", "0.125")
    read = read_settings({"port": "9000", "access_log": True}, None)
    printed = to_properties(read)

    assert printed.startswith(
        "# config.properties:1\nmax_body_bytes=3MiB\n"
        "# config.properties:2\npreferred_batch_sizes=4,8\n"
        "# config.properties:4\nmax_batch_rows=9\n"
        "# config.properties:5\n"
        'model_settings={"a": {"threads": 1, "version_policy": "versions:1,2", "max_batch_rows": null, '
        '"labels": {"stable": 1}}, "b": {}}\n'
        "# STATESERVE_MAX_DELAY_MS\nmax_delay_ms=0.125\n"
        "# --port\nport=9000\n"
        "# --access-log\naccess_log=true\n"
        "# TorchServe's keys, without effect here: io_ratio\n"
        "# defaults\nengine=auto\nthreads=none\n"
    )
    monkeypatch.delenv("STATESERVE_MAX_DELAY_MS")
    assert read_settings({}, write(printed, "printed.properties")).settings == read.settings
    assert {line.partition("=")[0] for line in printed.splitlines() if line[0] != "#"} == set(Settings.model_fields)


def row(name):
    """A setting's row of docs/settings.md."""
    field = Settings.model_fields[name]
    flags = " ".join(f"`{flag}`" for flag in (flag_name(name), flag_name(name, off=True) if is_switch(name) else "") if flag)
    cells = (
        f"`{name}`",
        flags,
        f"`STATESERVE_{name.upper()}`",
        f"`{as_text(name, field.default)}`",
        UNITS.get(name.rpartition("_")[2], ""),
        what_it_does(name),
    )
    return f"| {' | '.join(cells)} |"


@pytest.mark.parametrize("section", GROUPS)
def test_the_docs_list_every_setting(section):
    """docs/settings.md has a table per group, with a row per setting that says what the code says."""
    text = DOCS.partition(f"\n### {section}\n")[2].partition("\n#")[0]

    assert [line for line in text.splitlines() if line.startswith("| `")] == [
        row(name) for name in Settings.model_fields if group(name) == section
    ]


def test_the_docs_list_keys_without_effect():
    """docs/settings.md lists TorchServe's keys without effect, all of them and no other."""
    text = DOCS.partition("\n## TorchServe's keys without effect\n")[2].partition("\n#")[0]

    assert set(re.findall(r"`(\w+)`", text)) == WITHOUT_EFFECT.keys()


@pytest.mark.parametrize("example", re.findall(r"```properties\n(.*?)```", DOCS, re.DOTALL))
def test_the_docs_examples_are_read(example):
    """Every config.properties in docs/settings.md is one that the server takes."""
    assert settings_of(example) != Settings()


def test_the_projects_own_file():
    """config.properties in the project's root says the defaults, and how TorchServe's users find their models served."""
    read = read_settings({}, PROJECT / "config.properties")
    said = {name for name in read.sources if getattr(read.settings, name) != getattr(Settings(), name)}

    assert said == {*(f"{name}_address" for name in ("inference", "management", "metrics")), *OWN_FILE}
    assert {name: getattr(read.settings, name) for name in OWN_FILE} == OWN_FILE
    assert connectors(read.settings) == connectors(Settings())
    assert read.ignored == ()


def test_variables_of_kubernetes_are_passed_over(monkeypatch):
    """Kubernetes sets variables for a service called stateserve; they are no settings, and the server starts."""
    for name, value in {
        "STATESERVE_SERVICE_HOST": "10.0.0.1",
        "STATESERVE_SERVICE_PORT": "8080",
        "STATESERVE_SERVICE_PORT_HTTP": "8080",
        "STATESERVE_PORT": "tcp://10.0.0.1:8080",
        "STATESERVE_PORT_8080_TCP_ADDR": "10.0.0.1",
    }.items():
        monkeypatch.setenv(name, value)
    assert read_settings({}, None).settings.port == 8080

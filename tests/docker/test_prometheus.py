"""The real Prometheus asks a real server, and every panel and rule is computed: `make docker`.

The program is Debian's: its package is fetched and unpacked, and nothing is installed.
"""

import contextlib
import json
import subprocess
import time
import urllib.parse
import urllib.request

import pytest
import yaml

from bench.payloads import Body
from bench.processes import free_port, started
from tests.docker import build, promql
from tests.docker.simulated_apt import apt_get, is_debian

DEADLINE_S = 60
SELECTS_WHAT_IS_WRONG = (" > ", " == 0")
"""An expression with one of these has no result while all is well, unless it says `or vector(0)`."""

pytestmark = [
    pytest.mark.docker,
    pytest.mark.skipif(not is_debian(), reason="this machine has no packages of the images' Debian"),
]


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    """The folder of Debian's prometheus and promtool."""
    folder = tmp_path_factory.mktemp("prometheus")
    apt_get(folder, "update")
    apt_get(folder, "download", "prometheus")
    (package,) = folder.glob("prometheus_*.deb")
    subprocess.run(["dpkg-deb", "--extract", package, folder / "files"], check=True)
    return folder / "files/usr/bin"


@pytest.fixture(scope="module")
def prometheus(programs, mlp_artifact, tmp_path_factory):
    """A function that asks a Prometheus, which has seen a server answer and refuse, for the results of an expression."""
    folder = tmp_path_factory.mktemp("asked")
    with started("serving", "--repository", str(mlp_artifact.parents[1]), folder=folder) as server:
        address = f"127.0.0.1:{free_port()}"
        config = yaml.safe_load(promql.CONFIG.read_text())
        config["global"] = dict.fromkeys(config["global"], "1s")
        config["rule_files"] = [str(promql.RULES)]
        config["scrape_configs"][0]["static_configs"][0]["targets"] = [f"127.0.0.1:{server.port + 2}"]
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        flags = [
            f"--config.file={folder}/prometheus.yml",
            f"--storage.tsdb.path={folder}/data",
            f"--web.listen-address={address}",
        ]
        with build.started([programs / "prometheus", *flags], folder / "log.txt"):
            ask = asking(address)
            wait_for(lambda: ask("stateserve_requests_answered_total"), folder)
            steps = iter(range(1, 10**6))

            def more():
                answer_and_refuse(server, next(steps))
                return all(ask(f"increase({name}[1m]) > 0") for name in seen)

            seen = ('stateserve_requests_answered_total{model="mlp"}', 'stateserve_requests_failed_total{reason="bad_request"}')
            wait_for(more, folder)
            yield ask


def answer_and_refuse(server, step):
    good, bad = ({"inputs": {"x": [[step % 4, 2, 3, 4]]}}, {"inputs": {"x": [[1]]}})
    for body, status in ((good, 200), (bad, 400)):
        found, _, content = server.post("/predictions/mlp", Body(json.dumps(body).encode(), {"content-type": "application/json"}))
        assert found == status, content


def asking(address):
    def ask(expression):
        query = urllib.parse.urlencode({"query": expression})
        url = f"http://{address}/api/v1/query?{query}"
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=10) as answer:
            return json.loads(answer.read())["data"]["result"]
        return []

    return ask


def wait_for(condition, folder):
    end = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end, (folder / "log.txt").read_text()
        time.sleep(0.2)


def test_every_panel_is_computed(prometheus):
    """Every expression of the dashboard and the rules has a result, but those that select what is wrong where nothing is."""
    empty = {
        asked.where
        for asked in (*promql.dashboard(), *promql.rules())
        if not prometheus(asked.text) and not any(word in asked.text for word in SELECTS_WHAT_IS_WRONG)
    }

    assert empty == set()


def test_numbers_are_the_servers(prometheus):
    """Stages add up to the whole, the model is ready, and the one that refused is the client's fault."""
    stages = [
        float(prometheus(asked.text)[0]["value"][1])
        for asked in promql.dashboard()
        if asked.where == "Time of a request, by stage"
    ]
    whole = prometheus("sum(rate(stateserve_request_seconds_sum[1m])) / sum(rate(stateserve_request_seconds_count[1m]))")
    values = {asked.where: prometheus(asked.text) for asked in promql.dashboard()}

    assert len(stages) == 4
    assert sum(stages) == pytest.approx(float(whole[0]["value"][1]), rel=0.2)
    assert values["Versions not ready"][0]["value"][1] == "0"
    assert values["Server's fault"][0]["value"][1] == "0"
    assert float(values["Failures by reason"][0]["value"][1]) > 0


def test_rules_are_right(programs, tmp_path):
    """promtool passes configuration and rules; alerts fire when they should (rules_test.yml), and not before."""
    tool = programs / "promtool"
    for words in (["check", "config", promql.CONFIG], ["test", "rules", promql.RULES.with_name("rules_test.yml")]):
        ended = subprocess.run([tool, *words], capture_output=True, text=True, check=False, cwd=tmp_path)
        assert ended.returncode == 0, ended.stdout + ended.stderr

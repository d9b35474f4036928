"""The dashboard and the rules against the page of a real server: no panel asks for what is not there."""

import json
import re
import shutil
import subprocess
import urllib.request

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from bench.payloads import Body
from bench.processes import started
from tests.docker import promql
from tests.docker.build import PROJECT
from tests.docker.promql import OF_THE_TARGET, Expression

GRAFANA = PROJECT / "docker/grafana"
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
EXPRESSIONS = [*promql.dashboard(), *promql.rules()]


@pytest.fixture(scope="module")
def samples(mlp_artifact, tmp_path_factory):
    """Every sample's name on the metrics address of a server that has answered and refused, and its labels."""
    body = Body(b'{"inputs": {"x": [[1, 2, 3, 4]]}}', {"content-type": "application/json"})
    repository = str(mlp_artifact.parents[1])
    with started("serving", "--repository", repository, folder=tmp_path_factory.mktemp("served")) as server:
        assert server.post("/predictions/mlp", body)[0] == 200
        assert server.post("/predictions/none", body)[0] == 404
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port + 2}/metrics", timeout=10) as answer:
            page = answer.read().decode()
    return labels_by_name(page)


def labels_by_name(page):
    found = {}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            found.setdefault(sample.name, set(OF_THE_TARGET)).update(sample.labels)
    found["up"] = set(OF_THE_TARGET)
    for rule in promql.rules():  # what a rule records has the labels that it is summed by
        if ":" in rule.where:
            found[rule.where] = rule.lists - {"le"}
    return found


@pytest.mark.parametrize("asked", EXPRESSIONS, ids=lambda asked: asked.where)
def test_every_metric_and_label_is_there(asked, samples):
    """A panel, an alert and a recorded rule ask for metrics and labels that the server gives; texts name what is left."""
    assert set(asked.matched) <= set(samples)
    assert {name: labels - samples[name] for name, labels in asked.matched.items() if labels - samples[name]} == {}
    there = set().union(*(samples[name] for name in asked.matched))
    assert asked.lists <= there
    assert asked.told <= (asked.lists or there)


def test_the_reader_of_expressions_sees_all():
    """Names are found with and without matchers, labels in matchers and lists, and neither in strings, ranges and functions."""
    asked = Expression("x", 'sum by (a, le) (rate(m_total{b=~"c|d", e="{f}"}[5m])) / on (g) (n > 0.5) or vector(0)')

    assert asked.matched == {"m_total": {"b", "e"}, "n": set()}
    assert asked.lists == {"a", "le", "g"}


def test_an_expression_of_what_is_not_there_is_found(samples):
    """A metric that the server does not give, and a label that a metric does not have, are seen."""
    assert "stateserve_made_up_total" in set(Expression("x", "rate(stateserve_made_up_total[5m])").matched) - set(samples)
    assert Expression("x", 'stateserve_ready{stage="x"}').matched["stateserve_ready"] - samples["stateserve_ready"] == {"stage"}


def test_the_dashboard_shows_all_reasons_of_the_servers_fault():
    """Reasons that are counted as the server's fault are metrics' own, and those that are not are the client's."""
    from serving.metrics import REASONS

    clients = {"bad_request", "body_timeout", "body_too_large", "client_left", "not_found"}
    texts = [asked.text for asked in EXPRESSIONS if 'reason=~"' in asked.text]

    assert texts
    assert all(set(re.findall(r'reason=~"([^"]*)"', text)[0].split("|")) == set(REASONS) - clients for text in texts)


def test_the_dashboard_is_whole():
    """Every panel has a title, a description where it asks something, the chosen data source, and a place of its own."""
    read = json.loads(promql.DASHBOARD.read_text())
    asking = [panel for panel in read["panels"] if panel.get("targets")]
    places = set()

    assert len(asking) >= 20
    assert len({panel["id"] for panel in read["panels"]}) == len(read["panels"])
    for panel in asking:
        assert panel["description"].endswith(".")
        assert panel["datasource"] == DATASOURCE
        assert all(target["datasource"] == DATASOURCE for target in panel["targets"])
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
    for panel in read["panels"]:
        place = panel["gridPos"]
        cells = {(x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])}
        assert place["x"] + place["w"] <= 24
        assert not cells & places
        places |= cells


def test_grafana_finds_what_is_provisioned():
    """The dashboard's data source is the one that is provisioned, and its folder is the one that compose mounts."""
    (source,) = yaml.safe_load((GRAFANA / "provisioning/datasources/prometheus.yaml").read_text())["datasources"]
    (provider,) = yaml.safe_load((GRAFANA / "provisioning/dashboards/stateserve.yaml").read_text())["providers"]
    service = yaml.safe_load((PROJECT / "compose.yaml").read_text())["services"]["grafana"]
    chosen = json.loads(promql.DASHBOARD.read_text())["templating"]["list"][0]["current"]

    assert chosen == {"text": source["name"], "value": source["uid"]}
    assert f"./docker/grafana/dashboards:{provider['options']['path']}:ro" in service["volumes"]
    home = service["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == f"{provider['options']['path']}/{promql.DASHBOARD.name}"


def test_prometheus_asks_the_servers_metrics_address():
    """The target is compose's server, at the port that its image opens for metrics; the rules are mounted beside the config."""
    (job,) = yaml.safe_load(promql.CONFIG.read_text())["scrape_configs"]
    services = yaml.safe_load((PROJECT / "compose.yaml").read_text())["services"]
    (target,) = job["static_configs"][0]["targets"]

    assert target.split(":")[0] in services
    assert f"EXPOSE 8080 {target.split(':')[1]}\n" in (PROJECT / "docker/Dockerfile.cpu").read_text()
    assert "./docker/prometheus/rules.yml:/etc/prometheus/rules.yml:ro" in services["prometheus"]["volumes"]


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed here; make docker brings its own")
def test_promtool_finds_nothing():
    """Prometheus' own check passes the configuration and the rules."""
    ended = subprocess.run(["promtool", "check", "config", promql.CONFIG], capture_output=True, text=True, check=False)

    assert ended.returncode == 0, ended.stderr + ended.stdout

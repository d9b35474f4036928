"""What the dashboard and the rules ask Prometheus for: their expressions, and the metrics and labels in them."""

import json
import re
from dataclasses import dataclass

import yaml

from tests.docker.build import PROJECT

RULES = PROJECT / "docker/prometheus/rules.yml"
CONFIG = PROJECT / "docker/prometheus/prometheus.yml"
DASHBOARD = PROJECT / "docker/grafana/dashboards/stateserve.json"
OF_THE_TARGET = frozenset({"instance", "job"})
"""Labels that Prometheus adds to every sample."""

_GRAFANAS = {"$__rate_interval": "1m", "$instance": ".*", "$model": ".*"}
_LISTS = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")
_SELECTOR = re.compile(r"([a-zA-Z_:][\w:]*)\s*\{([^}]*)\}")
_NAME = re.compile(r"(?<![\w:.])([a-zA-Z_:][\w:]*)(?![\w:])(?!\s*\()")
_WORDS = frozenset({"and", "or", "unless", "bool", "offset", "inf", "nan"})


@dataclass(frozen=True)
class Expression:
    """An expression, where it stands, and the labels that the text beside it names."""

    where: str
    text: str
    told: frozenset[str] = frozenset()

    @property
    def lists(self):
        """The labels of every `by (…)` and its like."""
        return {name.strip() for found in _LISTS.findall(self._plain) for name in found.split(",") if name.strip()}

    @property
    def matched(self):
        """Each metric's name, and the labels that are matched on it, in one or more places."""
        found = {}
        text = re.sub(r"\[[^\]]*\]", "", _LISTS.sub("", self._plain))
        for name, matchers in _SELECTOR.findall(text):
            found.setdefault(name, set()).update(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers))
        for name in _NAME.findall(_SELECTOR.sub("", text)):
            if name not in _WORDS:
                found.setdefault(name, set())
        return found

    @property
    def _plain(self):
        return re.sub(r'"[^"]*"', '""', self.text)


def dashboard():
    """Every panel's expressions, with Grafana's variables filled in, and the annotations'."""
    read = json.loads(DASHBOARD.read_text())
    for panel in read["panels"]:
        for target in panel.get("targets", ()):
            yield Expression(
                panel["title"], _filled(target["expr"]), frozenset(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            )
    for note in read["annotations"]["list"]:
        yield Expression(note["name"], _filled(note["expr"]), frozenset(re.findall(r"\{\{(\w+)\}\}", note["titleFormat"])))


def rules():
    """Every rule's expression; what an alert's summary names of labels is told."""
    for group in yaml.safe_load(RULES.read_text())["groups"]:
        for rule in group["rules"]:
            summary = rule.get("annotations", {}).get("summary", "")
            told = frozenset(re.findall(r"\$labels\.(\w+)", summary))
            yield Expression(rule.get("alert") or rule["record"], rule["expr"], told)


def _filled(text):
    for name, value in _GRAFANAS.items():
        text = text.replace(name, value)
    return text

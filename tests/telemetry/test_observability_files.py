"""The alert rules and the dashboard in `examples/observability` fit the metrics that exist."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.support.limits import SUBPROCESS_SECONDS

from goevent.telemetry.metric_families import FAMILIES

ROOT = Path(__file__).parents[2]
FILES = ROOT / "examples" / "observability"
RULES = FILES / "goevent.rules.yml"
DASHBOARD = FILES / "goevent-dashboard.json"
DURATION = "goevent_run_duration_seconds"
LABELS = {family.name: {"bus", "instance", *family.labels} for family in FAMILIES} | {
    f"{DURATION}_bucket": {"bus", "instance", "listener", "le"}
}
PROMTOOL = shutil.which("promtool")


def rules() -> list[dict[str, Any]]:
    document = yaml.safe_load(RULES.read_text(encoding="utf-8"))
    return [rule for group in document["groups"] for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    return found


def queries() -> Iterator[tuple[str, str]]:
    for rule in rules():
        yield rule["alert"], rule["expr"]
    for panel in panels():
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]


@pytest.mark.parametrize(("title", "query"), [*queries()])
def test_each_query_uses_metrics_and_labels_that_exist(title: str, query: str) -> None:
    names = set(re.findall(r"\bgoevent_\w+", query))
    assert names
    assert names <= LABELS.keys()
    known = set[str]().union(*(LABELS[name] for name in names))
    matched = {
        label
        for selector in re.findall(r"\{(.*?)\}", query)
        for label in re.findall(r"(\w+)[!=]~?=?\"", selector) + re.findall(r"(\w+)=", selector)
    }
    grouped = {
        label.strip()
        for labels in re.findall(r"\b(?:by|on|without) \((.*?)\)", query)
        for label in labels.split(",")
    }
    assert matched | grouped <= known


@pytest.mark.parametrize(("title", "query"), [*queries()])
def test_counters_are_only_used_as_rates(title: str, query: str) -> None:
    for name in re.findall(r"\bgoevent_\w+_total\b", query):
        assert re.search(rf"\b(rate|increase)\({name}\b", query), query


def test_each_alert_has_a_severity_and_a_summary_with_labels_of_its_query() -> None:
    alerts = [rule["alert"] for rule in rules()]
    assert len(set(alerts)) == len(alerts) >= 10
    for rule in rules():
        assert rule["labels"]["severity"] in {"warning", "critical"}
        text = " ".join(rule["annotations"].values())
        used = set(re.findall(r"\$labels\.(\w+)", text))
        names = re.findall(r"\bgoevent_\w+", rule["expr"])
        grouped = re.findall(r"\bby \((.*?)\)", rule["expr"])
        # An aggregation leaves only its own labels.
        left = {label.strip() for labels in grouped for label in labels.split(",")}
        assert used <= (left or set[str]().union(*(LABELS[name] for name in names)))


@pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed")
def test_prometheus_accepts_the_rules() -> None:
    done = subprocess.run(
        [str(PROMTOOL), "check", "rules", str(RULES)],
        capture_output=True,
        text=True,
        timeout=SUBPROCESS_SECONDS,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_dashboard_has_what_grafana_needs() -> None:
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    assert dashboard["schemaVersion"] >= 36
    assert dashboard["uid"]
    assert "id" not in dashboard, "Grafana gives the id when it imports a dashboard"
    ids = [panel["id"] for panel in panels()]
    assert len(set(ids)) == len(ids)
    variables = {each["name"] for each in dashboard["templating"]["list"]}
    text = DASHBOARD.read_text(encoding="utf-8")
    used = set(re.findall(r"\$\{?(\w+)", text)) - {"__range", "__rate_interval", "__all"}
    assert used == variables
    for panel in panels():
        assert panel["title"]
        if panel["type"] != "row":
            assert panel["description"]
            assert panel["datasource"]["uid"] == "${datasource}"
            assert [target["refId"] for target in panel["targets"]] == ["A", "B"][
                : len(panel["targets"])
            ]


def test_the_panels_do_not_overlap() -> None:
    places = [panel["gridPos"] for panel in panels()]
    for place in places:
        assert 0 <= place["x"] < place["x"] + place["w"] <= 24
    for one, other in combinations(places, 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        above = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or above


def test_the_dashboard_and_the_rules_show_every_metric() -> None:
    text = " ".join(query for _, query in queries())
    missing = [family.name for family in FAMILIES if family.name not in text]
    assert not missing


def test_the_guide_has_a_row_for_each_metric() -> None:
    page = (ROOT / "docs/operate/observe.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| `goevent_")]
    expected = [
        f"| `{family.name}` | {family.kind} | "
        f"{', '.join(f'`{label}`' for label in ('bus', *family.labels))} | {family.help} |"
        for family in FAMILIES
    ]
    assert rows[: len(expected)] == expected
    assert [row for row in rows[len(expected) :] if DURATION in row] == rows[len(expected) :]

"""Dashboard, alerts and scrape config in deploy/: judged by promtool, over the product's metrics."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.configfile import load_config
from tests.test_deploy import DEPLOY, run
from tests.test_metrics import PROMISED

DASHBOARD = DEPLOY / "grafana" / "framerail.json"
PROMETHEUS = DEPLOY / "prometheus"

HISTOGRAMS = {"framerail_stage_seconds", "framerail_latency_seconds", "framerail_batch_size"}


def series() -> dict[str, set[str]]:
    """The names that stand in PromQL, with the labels that each may be asked for."""
    found = {}
    for name, labels in PROMISED.items():
        labels = labels | {"job", "instance"}
        if name in HISTOGRAMS:
            found |= {f"{name}_bucket": labels | {"le"}, f"{name}_sum": labels, f"{name}_count": labels}
        else:
            found[name] = labels
    return found


def expressions() -> list[tuple[str, str]]:
    """(where, PromQL) of every panel and every alert, the dashboard's variables filled in."""
    found = []
    for panel in json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]:
        for target in panel.get("targets", []):
            expr = re.sub(r"\$(job|instance|stream)\b", ".*", target["expr"])
            found.append((f"panel {panel['title']!r}", expr.replace("$__rate_interval", "5m")))
    found += [(f"alert {rule['alert']}", rule["expr"]) for rule in alerts()]
    return found


def alerts() -> list[dict[str, Any]]:
    groups = yaml.safe_load((PROMETHEUS / "alerts.yml").read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def test_prometheus_accepts_config_and_rules() -> None:
    checked = run("promtool", "check", "config", "scrape.yml", cwd=PROMETHEUS)
    assert checked.returncode == 0, checked.stdout
    assert f"{len(alerts())} rules found" in checked.stdout


def test_alerts_fire_on_their_faults() -> None:
    tested = run("promtool", "test", "rules", "alerts_test.yml", cwd=PROMETHEUS)
    assert tested.returncode == 0, tested.stdout


def test_every_alert_is_tested_and_explained() -> None:
    tests = (PROMETHEUS / "alerts_test.yml").read_text(encoding="utf-8")
    for rule in alerts():
        assert rule["alert"] in tests
        assert rule["annotations"].keys() == {"summary", "description"}
        assert rule["labels"]["severity"] in {"warning", "critical"}


def test_scrape_target_is_the_address_that_the_config_serves() -> None:
    scrape = yaml.safe_load((PROMETHEUS / "scrape.yml").read_text(encoding="utf-8"))
    (job,) = scrape["scrape_configs"]
    assert job["static_configs"][0]["targets"] == [load_config(DEPLOY / "framerail.yaml").metrics]
    assert f'job="{job["job_name"]}"' in alerts()[0]["expr"]


@pytest.mark.parametrize(("where", "expr"), expressions(), ids=lambda value: value[:40])
def test_expressions_name_only_metrics_and_labels_that_exist(where: str, expr: str) -> None:
    known = series()
    names = set(re.findall(r"\bframerail_\w+", expr))
    assert names <= known.keys(), where
    for name, selector in re.findall(r"\b(framerail_\w+)\{(.*?)\}", expr):
        assert set(re.findall(r"(\w+)\s*[=!]~?", re.sub(r'"[^"]*"', "", selector))) <= known[name], where
    for grouping in re.findall(r"\b(?:by|on) \((.*?)\)", expr):
        labels = set(grouping.replace(" ", "").split(","))
        assert any(labels <= known[name] for name in names or known), where


def test_dashboard_shows_every_metric() -> None:
    text = DASHBOARD.read_text(encoding="utf-8")
    assert not [name for name in PROMISED if name not in text]


def test_dashboard_is_whole() -> None:
    board = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    assert board["schemaVersion"] >= 39
    variables = {variable["name"]: variable["type"] for variable in board["templating"]["list"]}
    assert variables == {"datasource": "datasource", "job": "query", "instance": "query", "stream": "query"}
    panels = board["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        for holder in [panel, *panel["targets"]] if panel["type"] != "row" else []:
            assert holder["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    places = [panel["gridPos"] for panel in panels]
    for a, b in itertools.combinations(places, 2):
        apart = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
        assert apart or a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"], (a, b)


def test_no_panel_is_empty_while_everything_runs(tmp_path: Path) -> None:
    """Prometheus evaluates each panel over one series of each metric: a wrong matching shows as absent."""
    inputs = []
    process = {"process_resident_memory_bytes": {"job", "instance"}}
    for name, labels in (series() | process).items():
        bounds: tuple[str | None, ...] = ("0.1", "+Inf") if "le" in labels else (None,)
        for bound in bounds:
            values = dict.fromkeys(labels - {"le"}, "x") | ({"le": bound} if bound else {})
            text = ", ".join(f'{label}="{value}"' for label, value in values.items())
            growing = name.endswith(("_total", "_bucket", "_sum", "_count"))
            inputs.append({"series": f"{name}{{{text}}}", "values": "0+10x60" if growing else "1x60"})
    panels = [(where, expr) for where, expr in expressions() if where.startswith("panel")]
    rules = [
        {"alert": f"panel{number}", "expr": f"absent({expr})", "annotations": {"where": where}}
        for number, (where, expr) in enumerate(panels)
    ]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "g", "rules": rules}]}))
    checks = [{"alertname": rule["alert"], "eval_time": "10m", "exp_alerts": []} for rule in rules]
    case = {"interval": "15s", "input_series": inputs, "alert_rule_test": checks}
    test = {"rule_files": ["rules.yml"], "tests": [case]}
    (tmp_path / "test.yml").write_text(yaml.safe_dump(test))
    tested = run("promtool", "test", "rules", "test.yml", cwd=tmp_path)
    assert tested.returncode == 0, tested.stdout

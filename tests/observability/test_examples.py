"""The files of examples/observability hold together: rules, dashboards, configurations, and the names in them."""

from __future__ import annotations

import itertools
import json
import re
import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sfumato.settings import Settings, variable_names
from sfumato.telemetry.names import INSTRUMENTS
from tests.support import prometheus
from tests.support.prometheus import EXAMPLES, dashboards, metric_names, panels, promtool, require_prometheus, rules

ROOT = Path(__file__).parents[2]
EXPORTED = {instrument.prometheus for instrument in INSTRUMENTS}
# What Prometheus itself knows of a target.
OWN = {"up"}
LABELS = {label.replace(".", "_") for instrument in INSTRUMENTS for label in instrument.labels} | {
    *("job", "instance", "le", "otel_scope_name")
}
UNITS = {"short", "percentunit", "s", "ms", "reqps", "cps", "bytes", "currencyUSD"}


def expressions() -> dict[str, str]:
    """Return every expression that a dashboard or an alert evaluates, by where it stands."""
    found = {str(panel): prometheus.substituted(panel.expression, window="5m") for panel in panels()}
    return found | {name: rule["expr"] for name, rule in rules().items()}


def yaml(name: str) -> Any:
    return msgspec.yaml.decode((EXAMPLES / name).read_bytes())


def test_promtool_takes_the_rules_and_the_configuration(tmp_path: Path) -> None:
    require_prometheus()
    for name in ("alerts.yml", "prometheus.yml"):
        shutil.copy(EXAMPLES / name, tmp_path)
    (tmp_path / "admin-key").write_text("any")
    promtool("check", "rules", "alerts.yml", directory=tmp_path)
    promtool("check", "config", "prometheus.yml", directory=tmp_path)


def test_whoever_follows_the_readme_scrapes_what_runs_and_nothing_else(tmp_path: Path) -> None:
    shipped = (EXAMPLES / "prometheus.yml").read_text()
    composed = yaml("compose.yaml")["configs"]["prometheus"]["content"]
    for text in (shipped, composed):
        assert _jobs(text) == ["sfumato"]
        # The other way: without the first job, and with the second as it stands there.
        before, _, after = text.partition("  - job_name: sfumato\n")
        first, _, second = after.partition("  # - job_name: sfumato-collector\n")
        assert "honor_labels" not in first
        other = before + re.sub(r"^  # ", "  ", "  # - job_name: sfumato-collector\n" + second, flags=re.MULTILINE)
        assert _jobs(other) == ["sfumato-collector"]
        require_prometheus()
        shutil.copy(EXAMPLES / "alerts.yml", tmp_path)
        (tmp_path / "prometheus.yml").write_text(other)
        promtool("check", "config", "prometheus.yml", directory=tmp_path)


def _jobs(text: str) -> list[str]:
    return [job["job_name"] for job in msgspec.yaml.decode(text.encode())["scrape_configs"]]


def test_what_is_up_is_told_of_our_targets_whatever_is_chosen() -> None:
    """Other targets are up, too; and what a collector sends has an instance of which no target is."""
    found = [panel.expression for panel in panels() if "up" in metric_names(panel.expression)]
    assert len(found) == 3
    assert all('up{job=~"sfumato.*"}' in expression for expression in found)


def test_every_alert_fires_in_its_test_and_is_silent_before() -> None:
    require_prometheus()
    promtool("test", "rules", "alerts_test.yml")
    firing: set[str] = set()
    silent: set[str] = set()
    for case in yaml("alerts_test.yml")["tests"]:
        for check in case["alert_rule_test"]:
            if check["exp_alerts"]:
                firing.add(check["alertname"])
            elif case["name"] == check["alertname"]:
                silent.add(check["alertname"])
    assert firing == silent == set(rules())


def test_no_alert_fires_when_all_is_well() -> None:
    (healthy,) = [case for case in yaml("alerts_test.yml")["tests"] if case["name"] == "healthy"]
    assert {check["alertname"] for check in healthy["alert_rule_test"]} == set(rules())
    assert all(check["exp_alerts"] == [] for check in healthy["alert_rule_test"])


def test_promtool_reads_every_expression_of_the_dashboards(tmp_path: Path) -> None:
    require_prometheus()
    records = [{"record": f"panel:{n}", "expr": text} for n, text in enumerate(expressions().values())]
    (tmp_path / "rules.yml").write_text(json.dumps({"groups": [{"name": "panels", "rules": records}]}))
    promtool("check", "rules", "rules.yml", directory=tmp_path)


def test_every_metric_is_on_a_dashboard_and_no_other() -> None:
    shown = {name for panel in panels() for name in metric_names(panel.expression)}
    assert shown == EXPORTED | OWN


@pytest.mark.parametrize("where", expressions())
def test_expressions_read_metrics_and_labels_that_exist(where: str) -> None:
    expression = expressions()[where]
    assert metric_names(expression)
    assert metric_names(expression) <= EXPORTED | OWN
    by_name = {instrument.prometheus: instrument for instrument in INSTRUMENTS}
    for name, matchers in re.findall(r"\b((?:gemini_image|gen_ai)_\w+)\{([^}]*)\}", expression):
        labels = {match[1] for match in re.finditer(r"(\w+)(?:=~|!~|!=|=)\"", matchers)}
        instrument = by_name[re.sub(r"_(?:bucket|sum|count)$", "", name)]
        known = {label.replace(".", "_") for label in instrument.labels} | {"job", "instance", "otel_scope_name"}
        assert labels <= known | ({"le"} if name.endswith("_bucket") else set()), where
    for grouped in re.findall(r"\bby \(([^)]*)\)", expression):
        assert {label.strip() for label in grouped.split(",")} <= LABELS, where


def test_alerts_say_how_bad_it_is_and_where_to_read_on() -> None:
    for name, rule in rules().items():
        assert rule["labels"]["severity"] in {"critical", "warning", "info"}
        assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}, name
        page, _, anchor = rule["annotations"]["runbook_url"].partition("#")
        assert anchor == name.lower()
        assert re.search(rf"^### {name}$", (ROOT / page).read_text(), re.MULTILINE), name


@pytest.mark.parametrize("name", dashboards())
def test_dashboards_can_be_imported(name: str) -> None:
    board = dashboards()[name]
    assert board["id"] is None
    assert board["uid"] == f"sfumato-{name}"
    assert board["schemaVersion"] >= 39
    assert board["refresh"]
    assert {board["title"] for board in dashboards().values()} >= {board["title"]}
    variables = {variable["name"]: variable for variable in board["templating"]["list"]}
    assert set(variables) == {"datasource", "job", "instance", "model", "interval"}
    assert variables["datasource"]["query"] == "prometheus"
    assert variables["interval"]["current"]["value"] in variables["interval"]["query"].split(",")
    for variable in ("job", "instance", "model"):
        assert variables[variable]["includeAll"]
        # Others on the same Prometheus have metrics of the same names.
        assert variables[variable]["allValue"] == ("sfumato.*" if variable == "job" else ".*")
        assert variables[variable]["current"]["value"] == ["$__all"]
        assert metric_names(variables[variable]["definition"].split(",")[0]) <= EXPORTED


@pytest.mark.parametrize("name", dashboards())
def test_panels_are_complete_and_do_not_overlap(name: str) -> None:
    shown = dashboards()[name]["panels"]
    assert len({panel["id"] for panel in shown}) == len(shown)
    for panel in shown:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        if panel["type"] == "row":
            continue
        assert panel["title"]
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"] in UNITS
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
        assert all(target["legendFormat"] for target in panel["targets"])
    for one, other in itertools.combinations([panel["gridPos"] for panel in shown], 2):
        apart = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        apart = apart or one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert apart, (one, other)


def test_titles_and_uids_differ() -> None:
    assert len(dashboards()) == 3
    for field in ("title", "uid"):
        assert len({board[field] for board in dashboards().values()}) == 3


def test_the_collector_has_every_component_that_its_pipelines_name() -> None:
    config = yaml("otel-collector.yaml")
    assert set(config["service"]["extensions"]) <= set(config["extensions"])
    assert set(config["service"]["pipelines"]) == {"metrics", "traces"}
    for pipeline in config["service"]["pipelines"].values():
        for kind, names in pipeline.items():
            assert set(names) <= set(config[kind])


def test_compose_names_variables_files_and_services_that_exist(tmp_path: Path) -> None:
    compose = yaml("compose.yaml")
    known = {alias for field in Settings.model_fields for alias in variable_names(field)}
    for service in compose["services"].values():
        assert set(service.get("depends_on", ())) <= set(compose["services"])
        for name in service.get("environment", {}):
            assert name in known or name.startswith(("OTEL_", "OTLP_"))
        for volume in service.get("volumes", ()):
            source = volume.partition(":")[0]
            assert source in compose["volumes"] or (EXAMPLES / source).exists(), source
        for port in service.get("ports", ()):
            assert port.startswith("127.0.0.1:")
    require_prometheus()
    config = msgspec.yaml.decode(compose["configs"]["prometheus"]["content"])
    config["scrape_configs"][0]["authorization"]["credentials_file"] = "admin-key"
    (tmp_path / "admin-key").write_text("any")
    (tmp_path / "prometheus.yml").write_text(json.dumps(config))
    shutil.copy(EXAMPLES / "alerts.yml", tmp_path)
    promtool("check", "config", "prometheus.yml", directory=tmp_path)


def test_grafana_finds_its_source_and_the_dashboards() -> None:
    (source,) = yaml("grafana/provisioning/datasources/prometheus.yaml")["datasources"]
    (provider,) = yaml("grafana/provisioning/dashboards/sfumato.yaml")["providers"]
    chosen = {board["templating"]["list"][0]["current"]["value"] for board in dashboards().values()}
    assert chosen == {source["uid"]}
    mounted = yaml("compose.yaml")["services"]["grafana"]["volumes"]
    assert f"./grafana:{provider['options']['path']}:ro" in mounted

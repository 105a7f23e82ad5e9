from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from pipeline.monitoring.metric_definitions import PACKING, TRAINING
from tests.pipeline.monitoring.alert_cases import FAULTS, HEALTHY, QUIET, Finding
from tests.pipeline.monitoring.manifests import ROOT, alerts, metrics_of, rules, rules_file

EXPORTED = {metric.name: metric for metric in (*TRAINING, *PACKING)}
FOREIGN = ("kube_job_", "DCGM_FI_")  # of kube-state-metrics and of NVIDIA's exporter
RECORDED = {rule["record"] for rule in rules() if "record" in rule}

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed (Debian: prometheus)"
)


def promtool(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["promtool", *map(str, arguments)], capture_output=True, text=True, timeout=120
    )


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule.get("alert", rule.get("record")))
def test_a_rule_asks_only_for_metrics_that_something_exports(rule: dict) -> None:
    unknown = {
        name
        for name in metrics_of(rule["expr"])
        if name not in EXPORTED.keys() | RECORDED and not name.startswith(FOREIGN)
    }
    assert not unknown


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule.get("alert", rule.get("record")))
def test_a_rule_chooses_only_states_that_there_are(rule: dict) -> None:
    for name, chosen in re.findall(r'(\w+_state)\{state=~?"([^"]*)"\}', rule["expr"]):
        assert set(chosen.split("|")) <= set(EXPORTED[name].labels["state"])


@pytest.mark.parametrize("name", alerts())
def test_an_alert_says_how_bad_it_is_what_it_is_and_where_to_read_on(name: str) -> None:
    alert = alerts()[name]
    assert alert["labels"]["severity"] in ("critical", "warning")
    assert alert["annotations"].keys() == {"summary", "description", "runbook_url"}
    page, anchor = alert["annotations"]["runbook_url"].split("#")
    headings = re.findall(r"^#+ (.*)$", (ROOT / page).read_text(), re.MULTILINE)
    assert anchor == name.lower()
    assert name in headings


def test_every_alert_has_a_fault_that_sets_it_off() -> None:
    assert {fault.alert for fault in FAULTS} == alerts().keys()


@needs_promtool
def test_promtool_accepts_the_rules(tmp_path: Path) -> None:
    result = promtool("check", "rules", rules_file(tmp_path / "rules.yaml"))
    assert result.returncode == 0, result.stdout + result.stderr


@needs_promtool
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault.alert} {fault.name}".strip())
def test_a_fault_sets_off_its_alert_and_no_other(fault: Finding, tmp_path: Path) -> None:
    firing = {"exp_labels": {**fault.labels, "severity": fault.severity}}
    check(tmp_path, fault.all_series(), {fault.alert: [firing]})


@needs_promtool
def test_a_healthy_cluster_is_silent(tmp_path: Path) -> None:
    check(tmp_path, HEALTHY, {})


@needs_promtool
@pytest.mark.parametrize("name", QUIET)
def test_what_only_looks_like_a_fault_is_silent(name: str, tmp_path: Path) -> None:
    check(tmp_path, HEALTHY | QUIET[name], {})


def check(folder: Path, series: dict[str, str], expected: dict[str, list[dict]]) -> None:
    """That after two hours of the series exactly these alerts fire."""
    rules_file(folder / "rules.yaml", annotated=False)
    test = {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "alert_rule_test": [
            {"eval_time": "119m", "alertname": name, "exp_alerts": expected.get(name, [])}
            for name in alerts()
        ],
    }
    content = {"rule_files": ["rules.yaml"], "evaluation_interval": "1m", "tests": [test]}
    (folder / "test.yaml").write_text(yaml.safe_dump(content))
    result = promtool("test", "rules", folder / "test.yaml")
    assert result.returncode == 0, result.stdout + result.stderr

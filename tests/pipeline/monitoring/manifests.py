"""The rules and panels as they are shipped, and what they ask for."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[3]
COMPONENT = ROOT / "k8s" / "components" / "monitoring"

_SELECTION = re.compile(r"\{[^{}]*\}|\[[^\]]*\]")  # labels and ranges
_GROUPING = re.compile(r"\b(by|on|ignoring|without)\s*\([^)]*\)")
_METRIC = re.compile(r"\b[A-Za-z_:][\w:]*\b(?!\s*\()")  # a word that is no function
_NO_METRIC = {"and", "or", "unless", "bool"}
_HISTOGRAM = re.compile(r"_(bucket|sum|count)$")


def rule_groups() -> list[dict[str, Any]]:
    manifest = yaml.safe_load((COMPONENT / "prometheus-rule.yaml").read_text())
    return manifest["spec"]["groups"]


def rules() -> list[dict[str, Any]]:
    return [rule for group in rule_groups() for rule in group["rules"]]


def alerts() -> dict[str, dict[str, Any]]:
    return {rule["alert"]: rule for rule in rules() if "alert" in rule}


def dashboard() -> dict[str, Any]:
    return json.loads((COMPONENT / "dashboard.json").read_text())


def panels() -> list[dict[str, Any]]:
    """Those that show something: no rows."""
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def panel_query(expression: str, rate_interval: str) -> str:
    """What Grafana asks when all namespaces and runs are chosen."""
    for name in ("$namespace", "$run"):
        expression = expression.replace(name, ".*")
    return expression.replace("$__rate_interval", rate_interval)


def metrics_of(expression: str) -> set[str]:
    """The names of metrics in a query, of histograms without their ending."""
    bare = _GROUPING.sub(" ", _SELECTION.sub("", expression))
    words = {match.group() for match in _METRIC.finditer(bare)}
    return {_HISTOGRAM.sub("", word) for word in words - _NO_METRIC}


def shorter(text: str, factor: float) -> str:
    """Every duration of a query or a rule, divided; at least a second."""

    def divided(match: re.Match[str]) -> str:
        seconds = int(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2]]
        return f"{max(1, round(seconds / factor))}s"

    return re.sub(r"\b(\d+)([smh])\b", divided, text)


def rules_file(path: Path, *, faster: float = 1, annotated: bool = True) -> Path:
    """As Prometheus reads them; `faster`: with all durations divided."""
    groups = rule_groups()
    for rule in (rule for group in groups for rule in group["rules"]):
        rule["expr"] = shorter(rule["expr"], faster) if faster != 1 else rule["expr"]
        if "for" in rule and faster != 1:
            rule["for"] = shorter(rule["for"], faster)
        if not annotated:
            rule.pop("annotations", None)
    path.write_text(yaml.safe_dump({"groups": groups}))
    return path

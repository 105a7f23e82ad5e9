from __future__ import annotations

import re
from pathlib import Path

import pytest

from pipeline.monitoring.docs_table import metrics_page
from pipeline.monitoring.metric import Metric
from pipeline.monitoring.metric_definitions import PACKING, TRAINING

ROOT = Path(__file__).parents[3]
METRICS = [*TRAINING, *(metric for metric in PACKING if metric not in TRAINING)]
UNITS = ("_seconds", "_bytes", "_ratio", "_decibels", "_per_second", "_steps")


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_names_follow_the_conventions_of_prometheus(metric: Metric) -> None:
    assert re.fullmatch(r"glcic_[a-z]+(_[a-z]+)*", metric.name)
    assert metric.name.endswith("_total") == (metric.kind == "counter")
    if metric.kind == "histogram":
        assert metric.name.endswith(UNITS)
    assert metric.help[0].isupper()
    assert metric.help.endswith(".")
    assert not {"le", "quantile", "job", "instance"} & metric.labels.keys()


def test_the_page_of_metrics_is_that_of_the_code() -> None:
    assert (ROOT / "docs" / "metrics.md").read_text() == metrics_page(), (
        "run python -m pipeline.monitoring.docs_table > docs/metrics.md"
    )

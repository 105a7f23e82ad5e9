from __future__ import annotations

import itertools

import pytest

from pipeline.monitoring.metric_definitions import PACKING, TRAINING
from tests.pipeline.monitoring.manifests import alerts, dashboard, metrics_of, panels

EXPORTED = {metric.name for metric in (*TRAINING, *PACKING)}
FOREIGN = {"ALERTS", "DCGM_FI_PROF_PIPE_TENSOR_ACTIVE", "DCGM_FI_DEV_POWER_USAGE"}


@pytest.mark.parametrize("panel", panels(), ids=lambda panel: panel["title"])
def test_a_panel_asks_only_for_metrics_that_something_exports(panel: dict) -> None:
    for target in panel["targets"]:
        asked = metrics_of(target["expr"])
        assert asked
        assert asked <= EXPORTED | FOREIGN


@pytest.mark.parametrize("panel", panels(), ids=lambda panel: panel["title"])
def test_a_panel_says_what_it_shows_and_of_which_runs(panel: dict) -> None:
    assert panel["description"].endswith(".")
    for target in panel["targets"]:
        assert "$run" in target["expr"] or "glcic-train" in target["expr"]
        assert target["datasource"]["uid"] == "${datasource}"


def test_panels_have_numbers_of_their_own_and_do_not_overlap() -> None:
    placed = dashboard()["panels"]
    assert len({panel["id"] for panel in placed}) == len(placed)
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in placed)
        for x, y in itertools.product(
            range(place["x"], place["x"] + place["w"]), range(place["y"], place["y"] + place["h"])
        )
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) == 23


def test_alerts_that_panels_speak_of_are_alerts() -> None:
    words = {
        word
        for panel in panels()
        for word in panel["description"].split()
        if word.startswith("Glcic")
    }
    assert words
    assert words <= alerts().keys()


def test_the_dashboard_is_of_a_schema_that_grafana_still_reads() -> None:
    assert dashboard()["schemaVersion"] >= 39
    assert {panel["type"] for panel in panels()} <= {"timeseries", "stat", "state-timeline"}

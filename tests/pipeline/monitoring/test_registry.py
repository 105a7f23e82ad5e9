from __future__ import annotations

from collections.abc import Iterator

import pytest
from prometheus_client import generate_latest

from pipeline.monitoring.metric_definitions import TRAINING
from pipeline.monitoring.registry import MetricSet


@pytest.fixture
def metrics() -> MetricSet:
    return MetricSet(TRAINING, "small")


def series(metrics: MetricSet, name: str) -> Iterator[str]:
    for line in generate_latest(metrics).decode().splitlines():
        if line.startswith((name + "{", name + " ")):
            yield line


def test_a_counter_is_there_at_zero_before_anything_is_counted(metrics: MetricSet) -> None:
    lines = list(series(metrics, "glcic_train_skipped_updates_total"))
    assert len(lines) == 2
    assert all(line.endswith(" 0.0") for line in lines)


def test_a_gauge_says_nothing_before_it_is_set(metrics: MetricSet) -> None:
    assert not list(series(metrics, "glcic_train_step"))


def test_every_series_names_its_run_and_its_host(metrics: MetricSet) -> None:
    metrics.set("glcic_train_step", 3)
    (line,) = series(metrics, "glcic_train_step")
    assert 'run="small"' in line
    assert "host=" in line


def test_a_loss_of_another_phase_ends_with_its_phase(metrics: MetricSet) -> None:
    metrics.replace("glcic_train_loss", "term", {"reconstruction": 0.5, "adversarial": 0.7})
    metrics.replace("glcic_train_loss", "term", {"discriminator": 1.4})
    (line,) = series(metrics, "glcic_train_loss")
    assert 'term="discriminator"' in line
    metrics.replace("glcic_train_loss", "term", {"reconstruction": 0.4})
    (line,) = series(metrics, "glcic_train_loss")
    assert line.endswith(" 0.4")


def test_a_total_that_is_counted_elsewhere_is_not_added_twice(metrics: MetricSet) -> None:
    for total in (2, 2, 5):
        metrics.count_to("glcic_checkpoint_failures_total", total)
    (line,) = series(metrics, "glcic_checkpoint_failures_total")
    assert line.endswith(" 5.0")


def test_sources_are_asked_at_every_collection(metrics: MetricSet) -> None:
    asked = []
    metrics.sources.append(lambda: asked.append(1))
    generate_latest(metrics)
    generate_latest(metrics)
    assert len(asked) == 2


def test_of_the_states_one_holds(metrics: MetricSet) -> None:
    for state in ("starting", "training", "failed"):
        metrics.choose("glcic_train_state", "state", state)
    holding = [line for line in series(metrics, "glcic_train_state") if line.endswith(" 1.0")]
    assert len(holding) == 1
    assert 'state="failed"' in holding[0]


def test_there_is_no_metric_that_is_not_in_the_catalogue(metrics: MetricSet) -> None:
    with pytest.raises(KeyError):
        metrics.set("glcic_train_stepp", 1)

"""A real Prometheus server scrapes a real run of two workers, what a real pack has counted, and
stand-ins for the rest of a cluster: then every panel has something to show, and every rule
something to judge.
"""

from __future__ import annotations

import re
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Gauge, start_http_server

from pipeline.monitoring.metric_definitions import TRAINING
from pipeline.monitoring.packing_metrics import PackingMetrics
from pipeline.monitoring.registry import MetricSet
from shards.packing.pack import pack_images
from tests.pipeline.monitoring.manifests import panel_query, panels, rules, rules_file
from tests.pipeline.monitoring.ports import free_port
from tests.pipeline.monitoring.prometheus_server import PrometheusServer, prometheus
from tests.shards.pictures import pack_small_set, small_recipe, write_class_folders
from tests.small_run import small_mapping, write_preset
from tests.torchrun import job, train_command

pytestmark = [
    pytest.mark.dist,
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus is not installed"),
]


READY = {
    "glcic_evaluation_step": ">= 120",
    "run:glcic_train_training:max": "== 1",
    "count_over_time(glcic_train_step[1h])": "> 12",
    "rate(glcic_train_step_seconds_count[10s])": "> 0",
}


def looking_closely(expression: str) -> str:
    """A subquery looks at whole minutes: perhaps at none of a run that lasts for less than one."""
    return expression.replace(":1m]", ":1s]")


def cluster() -> CollectorRegistry:
    """What kube-state-metrics, NVIDIA's exporter and a run on a GPU would show besides."""
    registry = MetricSet([one for one in TRAINING if "gpu" in one.name or one.by == "node"], "gpu")
    for name in ("allocated_peak", "reserved"):
        registry.set(f"glcic_gpu_memory_{name}_bytes", 1e9, local_rank="0")
    for name, labels in {
        "kube_job_status_active": {"namespace": "", "job_name": "glcic-train"},
        "kube_job_status_failed": {"namespace": "", "job_name": "glcic-pack"},
        "DCGM_FI_DEV_XID_ERRORS": {"gpu": "0", "pod": "glcic-train-0"},
        "DCGM_FI_PROF_PIPE_TENSOR_ACTIVE": {"gpu": "0", "pod": "glcic-train-0"},
        "DCGM_FI_DEV_POWER_USAGE": {"gpu": "0", "pod": "glcic-train-0"},
    }.items():
        Gauge(name, name, labels, registry=registry).labels(**labels).set(0)
    return registry


def packed(folder: Path) -> PackingMetrics:
    """As a pack that is still at it would show them."""
    source = write_class_folders(folder / "source", classes=2, images_per_class=6)
    metrics = PackingMetrics(str(folder / "set"))
    pack_images(source, str(folder / "set"), small_recipe(), workers=1, watch=metrics)
    return metrics


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrometheusServer]:
    """Of a run in its last phase."""
    folder = tmp_path_factory.mktemp("prometheus")
    ports = {"train": free_port(), "pack": free_port(), "cluster": free_port()}
    preset = write_preset(
        folder / "preset.yaml",
        small_mapping(
            pack_small_set(folder, images=36, images_per_shard=7), folder / "run",
            schedule={"completion": 60, "discriminator": 40, "joint": 1_000_000},
            checkpoint={"every_steps": 20, "keep": 1, "skip_late": True},
            evaluation={"every_steps": 120, "limit": 4, "recalibration_images": 16},
            telemetry={"port": ports["train"], "address": "127.0.0.1"},
        ),
    )  # fmt: skip
    rules = rules_file(folder / "rules.yaml")
    with ExitStack() as stack:
        for name, registry in (("pack", packed(folder / "pack").set), ("cluster", cluster())):
            served, thread = start_http_server(ports[name], "127.0.0.1", registry)
            stack.callback(thread.join)
            stack.callback(served.server_close)
            stack.callback(served.shutdown)
        targets = {name: [port] for name, port in ports.items()}
        found = stack.enter_context(prometheus(folder / "server", rules, targets))
        run = stack.enter_context(job(train_command(2, preset), folder / "log"))
        found.wait_for(
            lambda: run.poll() is not None or bool(found.query("glcic_evaluation_step")), 300
        )
        assert run.poll() is None, (folder / "log").read_text()

        def shows_all() -> bool:
            """Of one moment, since the run goes on and is in an evaluation now and then."""
            found.moment = time.time() - 1
            return all(found.query(f"{metric} {condition}") for metric, condition in READY.items())

        found.wait_for(shows_all, 300)
        yield found
        run.send_signal(signal.SIGTERM)
        run.wait(60)


def test_all_targets_are_scraped(server: PrometheusServer) -> None:
    assert [one["value"][1] for one in server.query("up")] == ["1", "1", "1"]


@pytest.mark.parametrize(
    ("title", "expression"),
    [
        (f"{panel['title']} {target['refId']}", target["expr"])
        for panel in panels()
        for target in panel["targets"]
    ],
)
def test_a_query_of_a_panel_has_an_answer(
    server: PrometheusServer, title: str, expression: str
) -> None:
    assert server.query(looking_closely(panel_query(expression, "10s"))), title


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule.get("alert", rule.get("record")))
def test_a_rule_has_something_to_judge(server: PrometheusServer, rule: dict) -> None:
    server.query(rule["expr"])
    # Comparisons give 0 or 1 instead of leaving out what is silent, as it is here.
    judged = re.sub(r" (==|>|<) ", r" \1 bool ", looking_closely(rule["expr"]))
    for part in re.split(r"\bunless on \([^)]*\)", judged):
        assert server.query(part), part


def test_a_healthy_run_sets_off_no_alert_of_its_own(server: PrometheusServer) -> None:
    assert not {alert for alert, run in server.firing() if run == "small"}


def test_the_run_counts_what_it_has_done(server: PrometheusServer) -> None:
    def value(expression: str) -> float:
        (one,) = server.query(expression)
        return float(one["value"][1])

    # A step may be made between the reading of two values.
    made = 'sum(glcic_train_steps_total{run="small"})'
    assert abs(value(f'{made} - sum(glcic_train_step{{run="small"}})')) <= 1
    assert abs(value(f'sum(glcic_train_images_total{{run="small"}}) - 12 * {made}')) <= 12
    assert value('glcic_train_world_size{run="small"}') == 2
    assert value('glcic_checkpoint_last_success_step{run="small"} % 20') == 0
    assert value('sum(glcic_train_state{run="small"})') == 1

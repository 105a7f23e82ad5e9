"""The metrics of one process, in a registry of prometheus_client."""

from __future__ import annotations

import importlib.metadata
import platform
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.metrics_core import Metric as Family

from pipeline.monitoring.metric import COMMON_LABELS, Metric

# The moment at which a counter began would be a second series beside each.
prometheus_client.disable_created_metrics()


class MetricSet(CollectorRegistry):
    """Metrics by name, each with the labels `run` and `host` besides its own.

    Values may be set from any thread. What knows its values better when they are asked for adds a
    function to `sources`; it is called before every collection, in whatever thread collects.
    """

    def __init__(self, metrics: Iterable[Metric], run: str) -> None:
        super().__init__(auto_describe=True)
        self.sources: list[Callable[[], None]] = []
        self._common = dict(zip(COMMON_LABELS, (run, socket.gethostname()), strict=True))
        self._metrics = {metric.name: metric for metric in metrics}
        self._families = {name: self._register(one) for name, one in self._metrics.items()}
        self._present: dict[str, set[str]] = {}  # of `replace`
        self._collecting = threading.Lock()  # sources are called one after another
        self._totals: dict[tuple[str, tuple[str, ...]], float] = {}
        for metric in self._metrics.values():
            if metric.kind != "gauge":
                for labels in metric.label_sets:
                    self._series(metric.name, labels)
        self.set("glcic_build_info", 1, **versions())

    def collect(self) -> Iterable[Family]:
        with self._collecting:
            self.set("glcic_metrics_timestamp_seconds", time.time())
            for source in self.sources:
                source()
        return super().collect()

    def add(self, name: str, amount: float = 1, **labels: str) -> None:
        self._series(name, labels).inc(amount)

    def set(self, name: str, value: float, **labels: str) -> None:
        self._series(name, labels).set(value)

    def observe(self, name: str, value: float, **labels: str) -> None:
        self._series(name, labels).observe(value)

    def count_to(self, name: str, total: float, **labels: str) -> None:
        """For a counter that is counted elsewhere. Calls for one name must not overlap."""
        key = name, tuple(labels.values())
        self.add(name, max(0.0, total - self._totals.get(key, 0.0)), **labels)
        self._totals[key] = total

    def replace(self, name: str, label: str, values: Mapping[str, float]) -> None:
        """Of a gauge with one label: series that have no value any more end."""
        gone = self._present.get(name, set()) - values.keys()
        for one in gone:
            self._families[name].remove(*self._common.values(), one)
        for one, value in values.items():
            self.set(name, value, **{label: one})
        self._present[name] = set(values)

    def choose(self, name: str, label: str, chosen: str) -> None:
        """Of a gauge with one label of known values: 1 for one of them, 0 for the others."""
        known = self._metrics[name].labels[label]
        assert chosen in known, (name, chosen)
        for value in known:
            self.set(name, float(value == chosen), **{label: value})

    def _register(self, metric: Metric) -> Counter | Gauge | Histogram:
        names = (*COMMON_LABELS, *metric.labels)
        if metric.kind == "counter":
            return Counter(metric.name, metric.help, names, registry=self)
        if metric.kind == "gauge":
            return Gauge(metric.name, metric.help, names, registry=self)
        return Histogram(metric.name, metric.help, names, registry=self, buckets=metric.buckets)

    def _series(self, name: str, labels: Mapping[str, str]):  # type: ignore[no-untyped-def]
        return self._families[name].labels(**self._common, **labels)


def versions() -> dict[str, str]:
    return {
        "version": _version("glcic-pipeline"),
        "python": platform.python_version(),
        "torch": _version("torch"),
    }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"

"""docs/metrics.md, made from the metrics themselves:

python -m pipeline.monitoring.docs_table > docs/metrics.md
"""

from __future__ import annotations

from collections.abc import Iterable

from pipeline.monitoring.metric import COMMON_LABELS, Metric
from pipeline.monitoring.metric_definitions import PACKING, TRAINING

_HEAD = """\
# Metrics

Made by `python -m pipeline.monitoring.docs_table > docs/metrics.md`. What they are for, and how
they get to Prometheus: [telemetry.md](telemetry.md).

Every series has the labels `{run}` (the name of the run; of a pack the last part of its
destination) and `{host}`. Values of the whole run are exported by rank 0; those of a node by the
first worker of each node, for all workers of that node. Counters and histograms are of a process
and begin at zero with each start; `glcic_train_step` and the other gauges do not.
"""


def metrics_page() -> str:
    run, host = COMMON_LABELS
    parts = [
        _HEAD.format(run=run, host=host),
        "## Of a training\n",
        _table(TRAINING),
        "## Of a pack\n",
        _table(PACKING),
    ]
    return "\n".join(parts)


def _table(metrics: Iterable[Metric]) -> str:
    lines = ["| metric | kind | labels | by | |", "| --- | --- | --- | --- | --- |"]
    lines += [
        f"| `{metric.name}` | {metric.kind} | {_labels(metric)} | {metric.by} | {metric.help} |"
        for metric in metrics
    ]
    return "\n".join(lines) + "\n"


def _labels(metric: Metric) -> str:
    return "; ".join(
        f"`{name}`: {', '.join(values)}" if values else f"`{name}`"
        for name, values in metric.labels.items()
    )


if __name__ == "__main__":
    print(metrics_page(), end="")

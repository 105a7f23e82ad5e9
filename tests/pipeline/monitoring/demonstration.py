"""Shows a real Prometheus real runs: a healthy one, and four that each set off their alert.

    python -m tests.pipeline.monitoring.demonstration --picture docs/dashboard.png

Needs Debian's package prometheus. All durations of the rules are divided by `--faster`: an alert
that waits ten minutes waits thirty seconds. Exits with 1 unless each run has set off its alerts and
no others. The picture has the panels of the dashboard, drawn from the same queries.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from tests.pipeline.monitoring.dashboard_picture import draw_dashboard
from tests.pipeline.monitoring.manifests import rules_file
from tests.pipeline.monitoring.ports import free_port
from tests.pipeline.monitoring.prometheus_server import PrometheusServer, prometheus
from tests.pipeline.monitoring.situations import live_through, pack_sets, situations


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.pipeline.monitoring.demonstration")
    parser.add_argument("--faster", type=float, default=20, help="(%(default)s)")
    parser.add_argument("--picture", type=Path)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="glcic-monitoring-") as name:
        return demonstrate(Path(name), options.faster, options.picture)


def demonstrate(folder: Path, faster: float, picture: Path | None) -> int:
    all_situations, pack_port = situations(), free_port()
    targets = {"train": [one.port for one in all_situations], "pack": [pack_port]}
    rules = rules_file(folder / "rules.yaml", faster=faster)
    faults = 0
    with prometheus(folder / "server", rules, targets) as server:
        begun = time.time()
        shards = pack_sets(folder, pack_port)
        for situation in all_situations:
            made_steps = f'glcic_train_step{{run="{situation.name}"}} > 20'
            has_begun = partial(server.query, made_steps)
            live_through(situation, shards, folder, faster, has_begun)
            fired = alerts_of(server, situation.name, begun)
            as_expected = fired == situation.alerts
            faults += not as_expected
            told = ", ".join(sorted(fired)) or "no alert"
            print(f"{situation.name}: {told}{'' if as_expected else '  <- not as expected'}",
                  flush=True)  # fmt: skip
        if picture is not None:
            draw_dashboard(server, begun, time.time(), picture)
    return min(faults, 1)


def alerts_of(server: PrometheusServer, run: str, begun: float) -> set[str]:
    query = f'ALERTS{{alertname=~"Glcic.*", alertstate="firing", run="{run}"}}'
    found = server.query_range(query, begun, time.time(), 1)
    return {one["metric"]["alertname"] for one in found}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

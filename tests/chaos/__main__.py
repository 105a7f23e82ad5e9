"""Trains a small run while its processes, its network and its checkpoints are disturbed.

    python -m tests.chaos --minutes 10 [--seed N] [--kills 50] [--elastic on] [--hosts loopback]

Two nodes with one worker each go through all three phases. Everything that ends is started again,
as a cluster would. Exits with 1 unless the weights are those of an undisturbed run (bit for bit
with `--elastic off`), every sample was seen as often as it should, and nothing is left behind.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from rich.console import Console

from tests.chaos.run import Settings, run_chaos


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--minutes", type=float, default=10.0, help="no disturbance begins later")
    parser.add_argument("--seed", type=int, default=0, help="of what strikes where and when")
    parser.add_argument("--kills", type=int, default=0, help="0: as many as the minutes allow")
    parser.add_argument(
        "--burst", type=float, default=0.35, help="share that strikes seconds after the one before"
    )
    parser.add_argument("--elastic", choices=("on", "off"), default="off")
    parser.add_argument("--hosts", choices=("auto", "namespaces", "loopback"), default="auto")
    parser.add_argument("--json", type=Path, help="where the result is written")
    parser.add_argument("--folder", type=Path, help="that is kept; else a temporary one")
    options = parser.parse_args(arguments)
    settings = Settings(
        minutes=options.minutes, seed=options.seed, kills=options.kills or
        max(1, int(options.minutes * 4)), elastic=options.elastic == "on", hosts=options.hosts,
        burst_share=options.burst,
    )  # fmt: skip
    console = Console(soft_wrap=True)
    if options.folder is not None:
        options.folder.mkdir(parents=True)
        result = run_chaos(settings, options.folder, console)
    else:
        with tempfile.TemporaryDirectory(prefix="glcic-chaos-") as folder:
            result = run_chaos(settings, Path(folder), console)
    console.print(result.to_table())
    if options.json:
        options.json.write_text(json.dumps(result.to_mapping(), indent=1) + "\n")
    for fault in result.faults:
        console.print(f"FAULT: {fault}", style="red", highlight=False, markup=False)
    return 1 if result.faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

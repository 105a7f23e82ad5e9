"""Keeps an evaluation as a result file: beside its figures the command, machine, date and commit.

python -m benchmarks.keep_evaluation runs/quickstart/evaluation.json \\
    benchmarks/results/quickstart-evaluation.json --command "make quickstart"

Run it on the machine, and at the commit, that the evaluation was made with.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.documented_tables import read_document
from benchmarks.harness.command_line import exit_status
from benchmarks.harness.result import installed_versions, this_hardware

ROOT = Path(__file__).parents[1]


def kept_evaluation(evaluation: dict[str, Any], command: str, date: datetime) -> dict[str, Any]:
    """Return the evaluation with its origin. Raises ValueError for what is no evaluation."""
    missing = [name for name in ("methods", "num_samples") if name not in evaluation]
    if missing:
        raise ValueError(
            f"this is no evaluation: it has no {' and no '.join(missing)}; name the "
            "evaluation.json that `glcic evaluate` or a training has written"
        )
    return {
        "command": command,
        "date": date.isoformat(timespec="seconds"),
        "commit": _commit(),
        "hardware": asdict(this_hardware()),
        "versions": installed_versions(),
        **evaluation,
    }


def _commit() -> str:
    """Return the short name of the checked-out commit, or nothing outside a repository."""
    command = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.keep_evaluation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("evaluation", type=Path, help="evaluation.json of a run")
    parser.add_argument("output", type=Path, help="result file to write")
    parser.add_argument("--command", required=True, help="that made the evaluation")
    options = parser.parse_args(arguments)

    def run() -> None:
        made = datetime.fromtimestamp(options.evaluation.stat().st_mtime, UTC)
        content = kept_evaluation(read_document(options.evaluation), options.command, made)
        options.output.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

    return exit_status("benchmarks.keep_evaluation", run)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

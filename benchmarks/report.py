"""Renders results as tables: Markdown for the repository, and the console's for one run.

python -m benchmarks.report        writes benchmarks/RESULTS.md from benchmarks/results/*.json
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks.harness.result import RESULTS_FOLDER, read_results
from benchmarks.harness.tables import render_markdown


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS_FOLDER, metavar="FOLDER")
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="default: RESULTS.md beside the folder"
    )
    options = parser.parse_args(arguments)
    try:
        results = read_results(options.results)
    except ValueError as error:
        print(f"benchmarks.report: {error}", file=sys.stderr)
        return 1
    output = options.output or options.results.parent / "RESULTS.md"
    output.write_text(render_markdown(results), encoding="utf-8")
    print(f"{len(results)} results in {output}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

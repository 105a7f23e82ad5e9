"""What workers of a launch tell each other; each writes what it has seen, for test_workers."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from benchmarks.harness.launched_workers import Workers, launched_workers
from pipeline.errors import ReportedElsewhere


def fail_on_the_second(workers: Workers) -> str:
    try:
        workers.each(lambda: 1 / (1 - workers.rank))
    except (ReportedElsewhere, ZeroDivisionError) as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def main(folder: Path) -> None:
    with launched_workers() as workers:
        seen = {
            "ranks": workers.gathered(workers.rank),
            "of the launch": [name for name in ("RANK", "WORLD_SIZE") if name in os.environ],
            "failure": fail_on_the_second(workers),
            "once a node": workers.once_a_node(lambda: workers.rank),
            "on main": workers.on_main(lambda: workers.rank),
        }
        (folder / f"{workers.rank}.json").write_text(json.dumps(seen))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""`glcic train` whose store answers every checkpoint but the first with an input/output error.

python tests/monitoring/failing_store_run.py --config PRESET
"""

from __future__ import annotations

import errno
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from launch import train
from launch.command import run
from pipeline import checkpoint_writer


def fail_after_the_first() -> None:
    commit = checkpoint_writer.commit
    committed: list[int] = []

    def commit_or_fail(url, step, files):
        if committed:
            raise OSError(errno.EIO, "as if the disk were failing")
        committed.append(step)
        return commit(url, step, files)

    checkpoint_writer.commit = commit_or_fail


if __name__ == "__main__":
    fail_after_the_first()
    sys.exit(run("train", train.main))

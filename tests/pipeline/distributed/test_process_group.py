import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

PROGRAM = """
import gc, sys
from pathlib import Path

import torch
import torch.distributed as dist

from pipeline.engines.ddp import Worker
from pipeline.engines.start import start_worker
from pipeline.engines.ddp import data_parallel

dist.init_process_group("gloo", init_method=f"file://{sys.argv[1]}", rank=0, world_size=1)
worker = Worker(world_size=2)
network = data_parallel(torch.nn.Linear(2, 2), worker)
network(torch.ones(1, 2)).sum().backward()
del network
gc.collect()
worker.close()
threads = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
print([name for name in threads if "gloo" in name])
"""


def test_no_thread_of_a_closed_group_is_left_to_abort_the_process_as_it_ends(tmp_path):
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "store")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert ended.stdout.strip() == "[]"

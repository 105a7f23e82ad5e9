from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from pipeline.device.options import set_determinism
from tests.pipeline.step.golden_trajectory import GOLDEN, lines, parsed

ROOT = Path(__file__).parents[3]
# Between instruction sets, from SSE 4.1 to AVX-512, losses were seen to differ by 5e-6 of their
# value and gradient norms by 5e-3, where a ReLU flips.
_LOSS_TOLERANCE = 1e-3
_NORM_TOLERANCE = 3e-2


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Sums are rounded in an order that depends on the number of threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
def test_the_losses_of_all_three_phases_are_those_that_were_kept() -> None:
    kept = [parsed(line) for line in GOLDEN.read_text().splitlines()]
    now = [parsed(line) for line in lines()]
    assert [(step, phase) for step, phase, _ in now] == [(s, p) for s, p, _ in kept]
    for (step, _, metrics), (_, _, expected) in zip(now, kept, strict=True):
        assert metrics.keys() == expected.keys()
        for name, value in expected.items():
            tolerance = _NORM_TOLERANCE if name.endswith("_norm") else _LOSS_TOLERANCE
            assert metrics[name] == pytest.approx(value, rel=tolerance), f"{name} at step {step}"


@pytest.mark.slow
def test_two_processes_with_two_threads_compute_the_same_digits() -> None:
    command = [sys.executable, "-m", "tests.pipeline.step.golden_trajectory"]
    # Threads that wait by spinning take a busy machine a hundred times as long.
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "passive"}
    outputs = [
        subprocess.run(
            command, cwd=ROOT, env=environment, check=True,
            capture_output=True, timeout=120,
        ).stdout
        for _ in range(2)
    ]  # fmt: skip
    assert outputs[0] == outputs[1]


def test_determinism_is_asked_of_torch_and_given_up_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    try:
        set_determinism(True)
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.backends.cudnn.deterministic
        assert not torch.backends.cudnn.benchmark
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
        set_determinism(False)
        assert not torch.are_deterministic_algorithms_enabled()
        assert torch.backends.cudnn.benchmark
    finally:
        torch.use_deterministic_algorithms(False)
        torch.backends.cudnn.deterministic = torch.backends.cudnn.benchmark = False


@pytest.mark.gpu
def test_on_cuda_the_same_step_twice_has_the_same_bits() -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    program = (
        "import torch\n"
        "from tests.pipeline import golden_trajectory as golden\n"
        "from pipeline.engines.start import set_determinism\n"
        "set_determinism(True)\n"
        "print('\\n'.join(golden.lines(torch.device('cuda'))))\n"
    )
    outputs = [
        subprocess.run(
            [sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True, timeout=300
        ).stdout
        for _ in range(2)
    ]
    assert outputs[0] == outputs[1]

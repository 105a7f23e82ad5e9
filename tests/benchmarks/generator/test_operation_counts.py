from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.generator.operation_counts import completion_counts, phase_flops
from benchmarks.training.measured_steps import random_batch
from pipeline.config.schedule import Phase
from pipeline.config.schema import Config
from pipeline.engines.ddp import Worker
from pipeline.networks.registry import build_completion
from pipeline.step.training_step import TrainingStep
from pipeline.training.run_state import RunState
from tests.small_run import small_config

KINDS = [
    {"kind": "glcic"},
    {"kind": "dam"},
    {"kind": "dam", "attention_maps": "zero"},
    {"kind": "dam", "attention_form": "author"},
    {"kind": "unet"},
]


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("micro_batch_size", [0, 1])
def test_the_operations_of_every_phase_are_those_that_torch_counts(
    kind: dict[str, str], micro_batch_size: int, tmp_path: Path
) -> None:
    train = {"batch_size": 2, "micro_batch_size": micro_batch_size}
    config = small_config("unread", tmp_path, train=train, completion=kind)
    worker = Worker()
    state = RunState(config, worker, SimpleNamespace(mean_color=(0.5, 0.5, 0.5)))
    step = TrainingStep(
        state.completion, state.discriminator, config.loss, config.discriminator.local_size,
        worker, micro_batch_size,
    )  # fmt: skip
    batch = random_batch(config, worker)
    for phase, flops in phase_flops(config).items():
        with FlopCounterMode(display=False) as counter:
            step(phase, batch)
        assert counter.get_total_flops() == 2 * flops, phase


def test_the_papers_schedule_is_counted_as_published_elsewhere() -> None:
    # 32.55 and 3.89 billion multiplications forward at 256 pixels.
    flops = {phase: count / 1e9 for phase, count in phase_flops(Config()).items()}
    assert flops[Phase.COMPLETION] == pytest.approx(195.3, rel=0.01)
    assert flops[Phase.DISCRIMINATOR] == pytest.approx(111.8, rel=0.01)
    assert flops[Phase.JOINT] == pytest.approx(257.6, rel=0.01)


def test_layers_are_listed_in_their_order_with_their_shapes() -> None:
    counts = completion_counts(Config())
    assert [count.name for count in counts[:2]] == ["encoder.1.conv", "encoder.2.conv"]
    assert counts[-1].output_shape == (3, 256, 256)
    assert [count.sees_input for count in counts] == [True] + 16 * [False]
    assert counts[0].bytes_moved(2, 4) == 4 * (2 * (4 + 64) * 256**2 + 64 * 4 * 25)


def test_a_network_stays_where_it_was() -> None:
    network = build_completion(Config())
    completion_counts(Config(), network)
    assert next(network.parameters()).device == torch.device("cpu")


def test_second_derivatives_are_not_counted_and_said_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="r1_weight"):
        phase_flops(small_config("unread", tmp_path, loss={"r1_weight": 1.0}))

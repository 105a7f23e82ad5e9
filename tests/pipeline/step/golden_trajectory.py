"""A small run of all three phases whose losses are kept as text, to be compared with ever after.

    python -m tests.pipeline.step.golden_trajectory > tests/pipeline/step/golden/trajectory.txt

writes them anew, after a change that is meant to alter the numbers of a training. Its batches are
made from a seed, so that no decoder, resizer or packed set has a part in them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from pipeline.config.loading import parse_config
from pipeline.config.schedule import Phase
from pipeline.config.schema import Config
from pipeline.engines.ddp import Worker
from pipeline.networks.registry import build_completion, build_discriminator
from pipeline.step.holes import patch_corners, rasterize
from pipeline.step.training_step import TrainingBatch, TrainingStep

GOLDEN = Path(__file__).parent / "golden" / "trajectory.txt"
_CPU = torch.device("cpu")
PHASES = [Phase.COMPLETION] * 5 + [Phase.DISCRIMINATOR] * 4 + [Phase.JOINT] * 6


def golden_config() -> Config:
    """Its small rates and large epsilon keep the rounding of other processors from growing: Adam
    would make whole steps of gradients that are nothing but rounding, of biases before batch norm.
    """
    optimizer = {"learning_rate": 2e-4, "epsilon": 1e-4}
    return parse_config(
        {
            "pack": {"crop_size": 32, "masks": {"side_min": 8, "side_max": 16}},
            "data": {"short_side_min": 32, "short_side_max": 32},
            "completion": {"width": 8},
            "discriminator": {"width": 4, "local_size": 16, "num_features": 8},
            "loss": {"alpha": 0.01, "known_weight": 0.3},
            "completion_optimizer": optimizer,
            "discriminator_optimizer": optimizer,
            "train": {"precision": "fp32"},
        }
    )


def trajectory(device: torch.device) -> Iterator[tuple[int, Phase, dict[str, float]]]:
    """Step, phase and every figure of the step but the counts of skipped updates."""
    config = golden_config()
    torch.manual_seed(config.seed)
    worker = Worker(precision=config.train.precision, device=device)
    completion = build_completion(config).to(device)
    discriminator = build_discriminator(config).to(device)
    training_step = TrainingStep(
        worker.trainable("completion", completion, config.completion_optimizer),
        worker.trainable("discriminator", discriminator, config.discriminator_optimizer),
        config.loss, config.discriminator.local_size, worker,
    )  # fmt: skip
    for step, phase in enumerate(PHASES):
        metrics = training_step(phase, _batch(step, device))
        assert not any(value for name, value in metrics.items() if name.endswith("_skipped"))
        values = {n: v.item() for n, v in metrics.items() if not n.endswith("_skipped")}
        yield step, phase, values


def _batch(step: int, device: torch.device) -> TrainingBatch:
    """Smooth pictures with a hole of 8 to 16 pixels each."""
    generator = torch.Generator().manual_seed(1000 + step)
    coarse = torch.rand(4, 3, 6, 6, generator=generator)
    images = torch.nn.functional.interpolate(coarse, size=(32, 32), mode="bilinear")
    sides = torch.randint(8, 17, (4, 1, 2), generator=generator)
    corners = (torch.rand(4, 1, 2, generator=generator) * (32 - sides)).long()
    holes = torch.cat([corners, sides], dim=2)
    choice = torch.zeros(4, dtype=torch.int64)
    return TrainingBatch(
        images=images.to(device),
        masks=rasterize(holes, 32).to(device),
        hole_corners=patch_corners(holes, choice, 16, 32).to(device),
        real_corners=patch_corners(holes.flip(0), choice, 16, 32).to(device),
    )


def lines(device: torch.device = _CPU) -> Iterator[str]:
    for step, phase, values in trajectory(device):
        metrics = " ".join(f"{name}={value:.9g}" for name, value in sorted(values.items()))
        yield f"{step} {phase.value} {metrics}"


def parsed(line: str) -> tuple[int, str, dict[str, float]]:
    step, phase, *metrics = line.split()
    pairs = (figure.split("=") for figure in metrics)
    return int(step), phase, {name: float(value) for name, value in pairs}


if __name__ == "__main__":
    print("\n".join(lines()))

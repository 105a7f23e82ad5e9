"""Every precision, memory format and compiler against eager fp32 in rows (NCHW).

Compared is what training makes of equal networks: the losses of each step, and after each phase the
change of all weights as one vector, relative to that of the reference. The optimizer is nearly
plain gradient descent in small steps (Adadelta far below its epsilon): Adam would blow the rounding
of gradients that are zero, those of biases before batch norm, up to whole steps. And the networks
are smooth: where an activation lies near zero, rounding alone decides whether ReLU lets its
gradient through, a noise that grows with the root of the rounding and would hide the rest.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cache

import pytest
import torch
from torch import Tensor, nn

from pipeline.config import Config, OptimizerConfig
from pipeline.graphed_step import GraphedStep
from pipeline.networks.dilation import SPACE_TO_BATCH
from pipeline.networks.registry import build_completion, build_discriminator
from pipeline.schedule import Phase
from pipeline.step import Figures, TrainingBatch, TrainingStep
from pipeline.workers import Worker, compilation
from pipeline.workers.switches import with_switches
from tests.pipeline.test_step import small_config, training_batch

STEPS = 2  # of each phase
GRADIENT_DESCENT = OptimizerConfig(kind="adadelta", learning_rate=0.01, epsilon=1.0)


@pytest.fixture(autouse=True)
def smooth_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "relu", nn.functional.silu)
    monkeypatch.setattr(nn, "ReLU", nn.SiLU)


@dataclass(frozen=True)
class Cell:
    precision: str = "fp32"
    channels_last: bool = False
    backend: str = ""  # of torch.compile
    dilation: str = "native"
    loss: float = 1e-5  # tolerance of losses, relative
    weights: float = 2e-4  # tolerance of the change of all weights, relative

    def __str__(self) -> str:
        layout = "channels_last" if self.channels_last else "rows"
        return "-".join(filter(None, (self.precision, layout, self.backend, self.dilation)))


# fp32 differs in the order of sums; fp16 has 11 bits of mantissa, bf16 8.
FP32 = {"loss": 1e-5, "weights": 2e-4}
FP16 = {"precision": "fp16", "loss": 5e-4, "weights": 0.02}
BF16 = {"precision": "bf16", "loss": 5e-3, "weights": 0.12}
EAGER = [
    *(Cell(channels_last=True, **FP32), Cell(dilation=SPACE_TO_BATCH, **FP32)),
    *(Cell(channels_last=last, **FP16) for last in (False, True)),
    *(Cell(channels_last=last, **BF16) for last in (False, True)),
    Cell(channels_last=True, dilation=SPACE_TO_BATCH, **BF16),
]
TRACED = [
    Cell(backend="aot_eager", dilation=SPACE_TO_BATCH, **FP32),
    Cell(backend="aot_eager", channels_last=True, **BF16),
    Cell(backend="aot_eager", channels_last=True, **FP16),
]


@dataclass(frozen=True)
class Result:
    """By phase: the losses of its steps, and the weights of both networks after it."""

    losses: dict[Phase, list[Figures]]
    weights: dict[Phase, dict[str, Tensor]]


def weights_of(networks: dict[str, nn.Module]) -> dict[str, Tensor]:
    """All parameters of a network as one vector in float64, in rows."""
    return {
        name: torch.cat([p.detach().contiguous().flatten() for p in network.parameters()])
        .double()
        .cpu()
        for name, network in networks.items()
    }


def config_of(cell: Cell, optimizer: OptimizerConfig = GRADIENT_DESCENT, **train: object) -> Config:
    config = small_config(alpha=0.05)
    train = {"precision": cell.precision, "channels_last": cell.channels_last,
             "compile": bool(cell.backend), **train}  # fmt: skip
    return dataclasses.replace(
        config,
        completion_optimizer=optimizer,
        discriminator_optimizer=optimizer,
        train=dataclasses.replace(config.train, **train),
    )


def step_of(cell: Cell, config: Config, device: torch.device) -> TrainingStep:
    torch.manual_seed(0)
    worker = Worker(precision=cell.precision, device=device, cuda_graphs=config.train.cuda_graphs)
    players = []
    for name, network in (
        ("completion", build_completion(config)),
        ("discriminator", build_discriminator(config)),
    ):
        layout = torch.channels_last if cell.channels_last else torch.contiguous_format
        network.to(device=device, memory_format=layout)
        players.append(worker.player(name, with_switches(network, config), getattr(
            config, f"{name}_optimizer")))  # fmt: skip
    players[0].network.dilation = cell.dilation
    return TrainingStep(*players, config.loss, config.discriminator.local_size, worker)


def trained(cell: Cell, device: str = "cpu", steps: int = STEPS, **train: object) -> Result:
    config = config_of(cell, **train)
    step = step_of(cell, config, torch.device(device))
    graphed = GraphedStep(step) if config.train.cuda_graphs else step
    networks = {"completion": step.completion.network, "discriminator": step.discriminator.network}
    losses: dict[Phase, list[Figures]] = {}
    weights = {}
    for phase in Phase:
        losses[phase] = []
        for number in range(steps):
            figures = graphed(phase, on_device(training_batch(number), device))
            assert not any(figures[name] for name in figures if name.endswith("_skipped"))
            kept = ("reconstruction", "adversarial", "discriminator")
            losses[phase].append({n: figures[n].cpu() for n in kept if n in figures})
        weights[phase] = weights_of(networks)
    return Result(losses, weights)


def on_device(batch: TrainingBatch, device: str) -> TrainingBatch:
    return TrainingBatch(*(getattr(batch, f.name).to(device) for f in dataclasses.fields(batch)))


@cache
def reference(device: str = "cpu", steps: int = STEPS) -> Result:
    return trained(Cell(), device, steps)


@cache
def initial_weights() -> dict[str, Tensor]:
    step = step_of(Cell(), config_of(Cell()), torch.device("cpu"))
    return weights_of(
        {"completion": step.completion.network, "discriminator": step.discriminator.network}
    )


def assert_close(cell: Cell, found: Result, expected: Result) -> None:
    for phase in Phase:
        for mine, theirs in zip(found.losses[phase], expected.losses[phase], strict=True):
            for name, loss in theirs.items():
                torch.testing.assert_close(
                    mine[name], loss, rtol=cell.loss, atol=0,
                    msg=lambda m, n=name, p=phase: f"{p} {n}: {m}",
                )  # fmt: skip
        for name, before in initial_weights().items():
            change = expected.weights[phase][name] - before
            difference = found.weights[phase][name] - expected.weights[phase][name]
            if not change.any():  # a network that this phase does not train, before it is trained
                assert not difference.any(), name
                continue
            assert difference.norm() <= cell.weights * change.norm(), (
                f"{name} after {phase}: {difference.norm() / change.norm():.2g}"
            )


@pytest.mark.parametrize("cell", EAGER, ids=str)
def test_training_follows_that_of_eager_fp32_in_rows(cell: Cell) -> None:
    assert_close(cell, trained(cell), reference())


@pytest.mark.parametrize("cell", TRACED, ids=str)
def test_traced_training_follows_that_of_eager_fp32_in_rows(
    cell: Cell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compilation, "BACKEND", cell.backend)
    torch.compiler.reset()
    assert_close(cell, trained(cell), reference())

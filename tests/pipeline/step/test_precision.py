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
from torch._dynamo.utils import counters

from pipeline.config.schedule import Phase
from pipeline.config.schema import Config, OptimizerConfig
from pipeline.device import compilation
from pipeline.device.compilation import require_compiler
from pipeline.device.options import apply_options, set_float32_precision
from pipeline.distributed.batch_norm_statistics import running_statistics
from pipeline.engines.ddp import Worker
from pipeline.networks.kernels import winograd
from pipeline.networks.kernels.space_to_batch import SPACE_TO_BATCH
from pipeline.networks.kernels.winograd import WINOGRAD
from pipeline.networks.registry import build_completion, build_discriminator
from pipeline.step.cuda_graph_step import GraphedStep
from pipeline.step.training_step import StepMetrics, TrainingBatch, TrainingStep
from tests.pipeline.step.test_training_step import small_config, training_batch

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
STEPS = 2  # of each phase
LOSSES = ("reconstruction", "adversarial", "discriminator")
GRADIENT_DESCENT = OptimizerConfig(kind="adadelta", learning_rate=0.01, epsilon=1.0)


@pytest.fixture(autouse=True)
def smooth_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    # At its first use the tracer notes which functions are torch's: it must not note this one.
    torch.compile(torch.relu, backend="eager")(torch.zeros(1))
    monkeypatch.setattr(torch, "relu", nn.functional.silu)
    monkeypatch.setattr(nn, "ReLU", nn.SiLU)


@dataclass(frozen=True)
class Cell:
    precision: str = "fp32"
    channels_last: bool = False
    backend: str = ""  # of torch.compile
    dilation: str = "native"
    convolution: str = "direct"
    loss: float = 1e-5  # tolerance of losses, relative
    weights: float = 2e-4  # tolerance of the change of all weights, relative

    def __str__(self) -> str:
        layout = "channels_last" if self.channels_last else "rows"
        return "-".join(filter(None, 
            (self.precision, layout, self.backend, self.dilation, self.convolution)
        ))  # fmt: skip


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
WINOGRADS = [
    Cell(channels_last=True, convolution=WINOGRAD, **precision) for precision in (FP32, BF16)
]
TRACED = Cell(backend="aot_eager", dilation=SPACE_TO_BATCH, **FP32)
TRACED_IN_HALF = [Cell(backend="aot_eager", channels_last=True, **half) for half in (FP16, BF16)]


SLOW = [Cell(backend="inductor", channels_last=True, **FP32)]
ON_A_GPU = [
    *(Cell(channels_last=last, **FP32) for last in (False, True)),
    *(Cell(channels_last=last, **FP16) for last in (False, True)),
    *(Cell(channels_last=last, **BF16) for last in (False, True)),
    Cell(backend="inductor", channels_last=True, **FP32),
    Cell(backend="inductor", channels_last=True, **BF16),
    Cell(dilation=SPACE_TO_BATCH, channels_last=True, **BF16),
]


@dataclass(frozen=True)
class Result:
    """By phase: the losses of its steps, and what stands in both networks after it."""

    losses: dict[Phase, list[StepMetrics]]
    networks: dict[Phase, dict[str, Tensor]]


def contents(step: TrainingStep) -> dict[str, Tensor]:
    """All parameters of a network as one vector, and its running statistics; float64, in rows."""
    vectors = {}
    for trainable in (step.completion, step.discriminator):
        tensors = {
            "weights": list(trainable.network.parameters()),
            "statistics": running_statistics(trainable.network),
        }
        for kind, parts in tensors.items():
            flat = [part.detach().contiguous().flatten() for part in parts]
            vectors[f"{trainable.name} {kind}"] = torch.cat(flat).double().cpu()
    return vectors


def config_of(cell: Cell, **train: object) -> Config:
    config = small_config(alpha=0.05)
    train = {
        "precision": cell.precision, "channels_last": cell.channels_last,
        "compile": bool(cell.backend), "dilation": cell.dilation,
        "convolution": cell.convolution, **train,
    }  # fmt: skip
    return dataclasses.replace(
        config,
        completion_optimizer=GRADIENT_DESCENT,
        discriminator_optimizer=GRADIENT_DESCENT,
        train=dataclasses.replace(config.train, **train),
    )


def step_of(config: Config, worker: Worker) -> TrainingStep:
    torch.manual_seed(0)
    completion, discriminator = build_completion(config), build_discriminator(config)
    completion.dilation = config.train.dilation
    layout = torch.channels_last if config.train.channels_last else torch.contiguous_format
    trainables = []
    for name, network in (("completion", completion), ("discriminator", discriminator)):
        network.to(device=worker.device, memory_format=layout)
        network = apply_options(network, config)
        trainables.append(worker.trainable(name, network, getattr(config, f"{name}_optimizer")))
    return TrainingStep(*trainables, config.loss, config.discriminator.local_size, worker)


def trained(
    config: Config, worker: Worker, phases: tuple[Phase, ...] = tuple(Phase), steps: int = STEPS
) -> Result:
    """Some steps of each phase; every rank has batches of its own."""
    step = step_of(config, worker)
    taking = GraphedStep(step) if worker.cuda_graphs else step
    result = Result({}, {})
    for phase in phases:
        result.losses[phase] = []
        for number in range(steps):
            batch = on_device(training_batch(number + 100 * worker.rank), worker.device)
            metrics = taking(phase, batch)
            assert not any(metrics[name] for name in metrics if name.endswith("_skipped"))
            kept = [name for name in LOSSES if name in metrics]
            result.losses[phase].append({name: metrics[name].cpu() for name in kept})
        result.networks[phase] = contents(step)
    return result


def on_device(batch: TrainingBatch, device: torch.device) -> TrainingBatch:
    return TrainingBatch(*(getattr(batch, f.name).to(device) for f in dataclasses.fields(batch)))


def on_cpu(cell: Cell, *phases: Phase) -> Result:
    return trained(config_of(cell), Worker(precision=cell.precision), phases or tuple(Phase))


@cache
def reference() -> Result:
    return on_cpu(Cell())


def initial() -> dict[str, Tensor]:
    return contents(step_of(config_of(Cell()), Worker()))


def assert_close(cell: Cell, found: Result, expected: Result) -> None:
    before = initial()
    for phase, networks in found.networks.items():
        for mine, theirs in zip(found.losses[phase], expected.losses[phase], strict=True):
            for name, loss in theirs.items():
                torch.testing.assert_close(
                    mine[name], loss, rtol=cell.loss, atol=0,
                    msg=lambda m, n=name, p=phase: f"{p} {n}: {m}",
                )  # fmt: skip
        for name, vector in networks.items():
            change = (expected.networks[phase][name] - before[name]).norm()
            difference = (vector - expected.networks[phase][name]).norm()
            # What a phase does not train has no change, and then no difference either.
            assert difference <= cell.weights * change, (
                f"{name} after {phase}: {difference / change:.2g}"
            )


@pytest.mark.parametrize("cell", EAGER, ids=str)
def test_training_follows_that_of_eager_fp32_in_rows(cell: Cell) -> None:
    assert_close(cell, on_cpu(cell), reference())


@pytest.mark.slow
@pytest.mark.parametrize("cell", WINOGRADS, ids=str)
def test_winograds_convolutions_train_as_direct_ones_in_eager_fp32_in_rows_do(
    cell: Cell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(winograd, "_CHANNELS_MIN", 8)
    network = step_of(config_of(cell), Worker()).completion.network
    assert sum(getattr(module, "by_winograd", False) for module in network.modules()) == 10
    assert_close(cell, on_cpu(cell), reference())


def test_traced_training_follows_that_of_eager_fp32_in_rows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(compilation, "BACKEND", TRACED.backend)
    torch.compiler.reset()
    counters.clear()
    assert_close(TRACED, on_cpu(TRACED), reference())
    # Each network in training and frozen, the discriminators in training once more where real and
    # completed images differ in memory format; nothing is compiled a second time.
    assert 4 <= counters["stats"]["unique_graphs"] <= 5


@pytest.mark.parametrize("cell", TRACED_IN_HALF, ids=str)
def test_traced_half_precision_follows_eager_fp32_in_rows(
    cell: Cell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compilation, "BACKEND", cell.backend)
    torch.compiler.reset()
    assert_close(cell, on_cpu(cell, Phase.COMPLETION), reference())


@pytest.mark.slow
@pytest.mark.parametrize("cell", SLOW, ids=str)
def test_compiled_training_follows_that_of_eager_fp32_in_rows(cell: Cell) -> None:
    require_compiler(torch.device("cpu"), "train.compile", "false")
    torch.compiler.reset()
    assert_close(cell, on_cpu(cell, Phase.COMPLETION), reference())


def test_precision_is_what_the_tolerances_measure() -> None:
    """A comparison that bf16 passes by the tolerance of fp32 would compare nothing."""
    with pytest.raises(AssertionError):
        assert_close(Cell(**FP32), on_cpu(Cell(**BF16), Phase.COMPLETION), reference())


# On a GPU, against eager fp32 in rows on the same GPU


def on_gpu(config: Config, steps: int = STEPS) -> Result:
    set_float32_precision(config.train.tf32)
    torch.backends.cudnn.deterministic = True
    worker = Worker(
        device=torch.device("cuda"), precision=config.train.precision,
        cuda_graphs=config.train.cuda_graphs,
    )  # fmt: skip
    try:
        return trained(config, worker, steps=steps)
    finally:
        set_float32_precision(False)


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("cell", ON_A_GPU, ids=str)
def test_on_a_gpu_training_follows_that_of_eager_fp32_in_rows(cell: Cell) -> None:
    torch.compiler.reset()
    assert_close(cell, on_gpu(config_of(cell)), on_gpu(config_of(Cell())))


@pytest.mark.gpu
@needs_cuda
def test_on_a_gpu_tf32_stays_within_its_mantissa_of_fp32() -> None:
    cell = Cell(loss=FP16["loss"], weights=FP16["weights"])  # as many bits as fp16
    assert_close(cell, on_gpu(config_of(cell, tf32=True)), on_gpu(config_of(Cell())))


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("cell", [Cell(**FP32), Cell(**BF16)], ids=str)
@pytest.mark.parametrize("compiled", [False, True])
def test_on_a_gpu_recorded_steps_train_as_launched_ones(cell: Cell, compiled: bool) -> None:
    """Enough steps that some are warm-up, one is recorded and some are replayed alone."""
    torch.compiler.reset()
    train = {"compile": compiled, "channels_last": True}
    recorded = on_gpu(config_of(cell, cuda_graphs=True, **train), steps=6)
    assert_close(Cell(**FP32), recorded, on_gpu(config_of(cell, **train), steps=6))

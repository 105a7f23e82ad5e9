"""A small training under any engine: its figures, its checkpoints, and how two of them differ.

The batches are read once and shown to every engine. Two steps for each phase; a checkpoint after
every step.
"""

from __future__ import annotations

import dataclasses
import itertools
import shutil
from pathlib import Path

import torch
from torch import Tensor, nn

from pipeline.checkpoints.format import step_name
from pipeline.checkpoints.writer import CheckpointWriter
from pipeline.config.schedule import Phase, resolve_schedule
from pipeline.config.schema import Config
from pipeline.engines.ddp import Worker
from pipeline.engines.start import start_worker
from pipeline.networks.registry import build_completion, build_discriminator
from pipeline.step.device_feed import DeviceFeed
from pipeline.step.training_data import reader_spec, training_data
from pipeline.step.training_step import TrainingBatch, TrainingStep
from pipeline.training.resume import resume_, state_facts
from pipeline.training.run_state import RunState
from shards.reading.reader import ShardReader
from tests.small_run import final_tensors, small_config

TOTAL_STEPS = 6
STEPS_PER_PHASE = 2
SHARE = 6  # samples of a worker, where there are two
_OPTIMIZERS = {
    # Leaves gradients that are rounding noise as small as they are.
    "adadelta": {"kind": "adadelta", "learning_rate": 1.0, "epsilon": 1e-6},
    "adam": {"kind": "adam"},
}


@dataclasses.dataclass(frozen=True)
class Cell:
    """One row of what is tried."""

    engine: str
    zero_stage: int = 0
    precision: str = "fp32"
    micro_batch_size: int = SHARE
    channels_last: bool = False  # off: all engines take one code path, and differ in sums alone
    optimizer: str = "adadelta"
    network: str = "glcic"

    @property
    def name(self) -> str:
        """A word, which tells a cell of the default settings by its engine and precision."""
        stage = f"-{self.zero_stage}" if self.engine == "deepspeed" else ""
        changed = [
            str(getattr(self, entry.name))
            for entry in dataclasses.fields(self)[3:]
            if getattr(self, entry.name) != entry.default
        ]
        return "-".join([f"{self.engine}{stage}", self.precision, *changed])


ENGINES = [Cell("ddp"), Cell("accelerate"), *(Cell("deepspeed", stage) for stage in (0, 1, 2))]
CELLS = [
    *ENGINES,
    *(dataclasses.replace(cell, precision="bf16") for cell in ENGINES),
    *(dataclasses.replace(cell, precision="fp16") for cell in ENGINES[:2]),  # DeepSpeed has none
]
ZERO = ENGINES[2:]
FURTHER = {  # further settings: the cells that are held against the first one
    "micro-batches": [
        dataclasses.replace(cell, micro_batch_size=3) for cell in (Cell("ddp"), *ZERO)
    ],
    "Adam": [dataclasses.replace(cell, optimizer="adam") for cell in (Cell("ddp"), *ZERO)],
    "DAM": [dataclasses.replace(cell, network="dam") for cell in ENGINES if cell.zero_stage != 1],
    "U-Net": [dataclasses.replace(cell, network="unet") for cell in ENGINES if cell.zero_stage < 1],
    "channels last": [
        dataclasses.replace(cell, channels_last=True) for cell in (Cell("ddp"), *ZERO[::2])
    ],
}


def trial_config(shards: str, folder: Path, cell: Cell) -> Config:
    train = {
        "precision": cell.precision,
        "micro_batch_size": cell.micro_batch_size,
        "channels_last": cell.channels_last,
    }
    schedule = dict.fromkeys(("completion", "discriminator", "joint"), STEPS_PER_PHASE)
    parallel = {"engine": cell.engine, "zero_stage": cell.zero_stage}
    optimizer = _OPTIMIZERS[cell.optimizer]
    return small_config(
        shards, folder, train=train, schedule=schedule, parallel=parallel,
        completion={"kind": cell.network},
        completion_optimizer=optimizer, discriminator_optimizer=optimizer,
    )  # fmt: skip


class Trial:
    """A run, which goes on from the newest checkpoint there."""

    def __init__(self, config: Config, batches: list[TrainingBatch]) -> None:
        """Collective: every rank must call."""
        self.worker, self._config, self.batches = start_worker(config), config, batches
        self._data = training_data(config)
        self._schedule = resolve_schedule(config.schedule, 1)
        self.state = RunState(config, self.worker, self._data)
        self.step = resume_(self.state, config, self._data, self.worker, log=print)
        self._training_step = TrainingStep(
            self.state.completion, self.state.discriminator, config.loss,
            config.discriminator.local_size, self.worker, config.train.micro_batch_size,
        )  # fmt: skip

    def train(self, until: int = TOTAL_STEPS) -> list[dict[str, float]]:
        """The figures of each step, equal on all ranks, with a checkpoint after each."""
        figures = []
        writer = CheckpointWriter(
            self._config.checkpoint_url, 99, lambda message: None, skip_late=False
        )
        while self.step < until:
            phase = self._schedule.phase(self.step)
            figures.append(self.advance(phase, self.batches[self.step]))
            if phase is not Phase.DISCRIMINATOR:
                assert self.state.average is not None
                updates = self._schedule.completion_updates(self.step)
                self.state.average.update_(self.state.completion.network, updates)
            self.step += 1
            tensors = self.state.tensors()
            if self.worker.is_main:
                facts = state_facts(
                    self._config, self._data, self.worker, self.step, self.state.dilation
                )
                writer.save(self.step, tensors, facts)
        writer.close()
        self.worker.barrier()
        return figures

    def advance(self, phase: Phase, batch: TrainingBatch) -> dict[str, float]:
        figures = self._training_step(phase, batch)
        vector = torch.stack([value.float() for value in figures.values()])
        vector = self.worker.all_reduce_sum_(vector) / self.worker.world_size
        return dict(zip(figures, vector.tolist(), strict=True))

    def tensors(self) -> dict[str, Tensor]:
        """Copies of the state, without batch norm's counts of batches."""
        return {
            f"{file}/{name}": tensor.clone()
            for file, group in self.state.tensors().items()
            for name, tensor in group.items()
            if not name.endswith("num_batches_tracked")
        }


def read_batches(config: Config, worker: Worker) -> list[TrainingBatch]:
    """This rank's share of the first batches."""
    with ShardReader(reader_spec(config, worker)) as reader:
        feed = DeviceFeed(reader, config, worker.rank, worker.world_size, worker.device)
        reader.start(0, TOTAL_STEPS)
        batches = [
            TrainingBatch(**{name: tensor.clone() for name, tensor in vars(batch).items()})
            for _, batch in feed.batches()
        ]
        feed.close()
    return batches


def copy_checkpoint(source: Path, step: int, folder: Path) -> None:
    """A run's folder that holds one checkpoint of another run, and nothing else."""
    name = step_name(step)
    shutil.copytree(source / "checkpoints" / name, folder / "checkpoints" / name)


def figures_deviation(figures: dict[str, float], reference: dict[str, float]) -> float:
    """The largest relative one among losses and gradient norms."""
    assert figures.keys() == reference.keys()
    compared = [name for name in reference if "accuracy" not in name and "skipped" not in name]
    return max(abs(figures[name] / reference[name] - 1) for name in compared)


def state_deviation(folder: Path, reference: Path, step: int, config: Config) -> float:
    """The largest one among tensors of two checkpoints, relative to each tensor's largest value.

    Left out are biases that batch norm takes away again, with their optimizer's state: their
    gradients are rounding noise, which is as large as itself.
    """
    found, expected = final_tensors(folder, step), final_tensors(reference, step)
    assert found.keys() == expected.keys()
    noise = [
        f"{name}."
        for network in (build_completion(config), build_discriminator(config))
        for name in noise_names(network)
    ]
    worst = 0.0
    for name, tensor in expected.items():
        if any(f".{part}" in f"{name}.".replace("/", ".") for part in noise):
            continue
        if name.endswith("num_batches_tracked"):  # counts micro-batches, and is read by nothing
            continue
        scale = float(tensor.double().abs().max())
        difference = float((found[name].double() - tensor.double()).abs().max())
        worst = max(worst, difference / scale if scale else difference)
    return worst


def noise_names(network: nn.Module) -> list[str]:
    """Biases of convolutions right before batch norm: their gradients are rounding noise."""
    modules = list(network.named_modules())
    return [
        f"{name}.bias"
        for (name, module), (_, following) in itertools.pairwise(modules)
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d))
        and isinstance(following, nn.BatchNorm2d)
    ]

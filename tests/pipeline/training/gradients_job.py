"""For torchrun, on any number of workers: the averaged gradients of the first steps' losses.

    torchrun --nproc_per_node=2 tests/pipeline/training/gradients_job.py SHARDS OUTPUT

Batch norm uses its running statistics, so that a sample's gradient does not depend on the others in
its rank's share. The network is not updated.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

import safetensors.torch

from pipeline.engines.start import start_worker
from pipeline.step.device_feed import DeviceFeed
from pipeline.step.losses import adversarial_loss, discriminator_loss
from pipeline.step.training_data import reader_spec, training_data
from pipeline.step.training_step import TrainingStep
from pipeline.training.run_state import RunState
from shards.reading.reader import ShardReader
from tests.small_run import small_config


def main(shards: str, output: Path) -> None:
    config = small_config(shards, output.parent)
    worker = start_worker(config)
    state = RunState(config, worker, training_data(config))
    step = TrainingStep(
        state.completion, state.discriminator, config.loss, config.discriminator.local_size,
        worker,
    )  # fmt: skip
    completion, discriminator = state.completion, state.discriminator
    completion.network.eval()
    discriminator.network.eval()
    with ShardReader(reader_spec(config, worker)) as reader:
        reader.start(0, 1)
        feed = DeviceFeed(reader, config, worker.rank, worker.world_size, worker.device)
        for _, batch in feed.batches():
            raw = completion(batch.images, batch.masks)
            shown = step._discriminator_input(raw, batch)
            patches = step._patches(shown, batch.hole_corners)
            real_patches = step._patches(batch.images, batch.real_corners)
            real = discriminator(batch.images, real_patches)
            fake = discriminator(shown.detach(), patches.detach())
            discriminator_loss(real, fake).backward()
            adversarial = adversarial_loss(discriminator.frozen(shown, patches))
            (step._reconstruction_losses((raw, ()), batch)[0] + adversarial).backward()
    if worker.is_main:
        gradients = {
            f"{name}.{parameter_name}": parameter.grad.contiguous()
            for name, trainable in (("completion", completion), ("discriminator", discriminator))
            for parameter_name, parameter in trainable.network.named_parameters()
        }
        safetensors.torch.save_file(gradients, output)
    worker.close()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))

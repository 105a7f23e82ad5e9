"""The data of a training, from the configuration: the sets, and what a rank reads of them."""

from __future__ import annotations

from pipeline.config.schema import Config
from pipeline.engines.ddp import Worker
from shards.reading.reader_spec import ReaderSpec
from shards.sampling.mixture import Mixture, WeightedSet


def reader_spec(config: Config, worker: Worker) -> ReaderSpec:
    """Return what this rank reads while training."""
    data = config.data
    return ReaderSpec(
        shards=data.shards,
        split="train",
        batch_size=config.train.batch_size,
        rank=worker.rank,
        world_size=worker.world_size,
        seed=config.seed,
        short_side_min=data.short_side_min,
        short_side_max=data.short_side_max,
        horizontal_flip=data.horizontal_flip,
        weight=data.weight,
        mixture=data.mixture,
        decode_threads=data.decode_threads or worker.cores_per_rank,
        prefetch_batches=data.prefetch_batches,
        cache=data.cache,
        cache_limit_bytes=data.cache_limit_bytes,
        check_crc=data.check_crc,
        damaged=data.damaged,
        holes=data.holes,
        fresh_masks=data.fresh_masks,
    )


def training_data(config: Config) -> Mixture:
    """Return the mixture of all training sets.

    Raises FileNotFoundError and ValueError for sets that are missing or do not mix.
    """
    sets = (WeightedSet(config.data.shards, config.data.weight), *config.data.mixture)
    return Mixture(sets, config.train.batch_size)

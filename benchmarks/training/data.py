"""Which batches the training benchmark measures on, and where the real ones come from."""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness.photographs import SHIPPED_LABEL, pack_both_ways, write_shipped_parts
from benchmarks.training.measured_steps import REAL, SYNTHETIC
from pipeline.config.schema import Config
from pipeline.distributed.process_group import ProcessGroup
from pipeline.step.training_data import training_data
from pipeline.training.preflight import set_errors
from shards.format.manifest import MANIFEST_NAME

_KINDS = {"both": (SYNTHETIC, REAL), "synthetic": (SYNTHETIC,), "real": (REAL,)}


@dataclass(frozen=True)
class StepData:
    kinds: tuple[str, ...]  # of batches
    label: str  # never the name of a folder: results are published
    shards: str = ""  # of the real ones
    is_shipped: bool = False

    def in_config(self, config: Config) -> Config:
        """Return the configuration as this set is read under it.

        Raises FileNotFoundError and ValueError where the set is missing or does not fit.
        """
        if REAL not in self.kinds:
            return config
        data = dataclasses.replace(config.data, shards=self.shards)
        if self.is_shipped:
            # Packed for this crop; how much larger the images are is up to their packing.
            crop = config.crop_size
            data = dataclasses.replace(
                data, short_side_min=crop, short_side_max=crop * 3 // 2, mixture=()
            )
        config = dataclasses.replace(config, data=data)
        mixture = training_data(config)
        errors = [
            error
            for one, manifest in zip(mixture.sets, mixture.manifests, strict=True)
            for error in set_errors(config, one.shards, manifest)
        ]
        if errors:
            raise ValueError("; ".join(errors))
        mixture.order("train", config.seed)  # are there enough samples for a batch?
        return dataclasses.replace(config, pack=mixture.recipe)


def add_data_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data",
        choices=("auto", *_KINDS),
        default="auto",
        help="the batches: made up, really read, or both in turn; auto: both, where data.shards is"
        " a set in a folder of this machine, else synthetic",
    )
    parser.add_argument(
        "--shipped",
        action="store_true",
        help="instead of data.shards: the photographs that ship, packed into a temporary folder",
    )
    parser.add_argument("--label", default="", help="what the results call the photographs")


@contextmanager
def step_data(
    options: argparse.Namespace, config: Config, ranks: ProcessGroup
) -> Iterator[StepData]:
    """Collective: every rank must call, with a group of which it is a part."""
    kinds = _KINDS.get(options.data, _KINDS["both"])
    if REAL not in kinds:
        yield StepData(kinds, "random images")
    elif options.shipped:
        if ranks.world_size != ranks.local_world_size:
            raise ValueError(
                "--shipped packs into a folder of one machine; on several pack a set that all of "
                "them can read, and name it by --data.shards"
            )
        with tempfile.TemporaryDirectory(prefix="glcic-benchmark-") as folder:
            shards = ranks.broadcast_value(
                ranks.on_main(lambda: _pack_shipped(Path(folder), config.crop_size))
            )
            yield StepData(kinds, options.label or SHIPPED_LABEL, str(shards), is_shipped=True)
            ranks.barrier()  # the others read in rank 0's folder
    elif options.data == "auto" and not ranks.broadcast_value(_is_here(config.data.shards)):
        yield StepData((SYNTHETIC,), "random images")
    else:
        yield StepData(kinds, options.label or "photographs of one's own", config.data.shards)


def _is_here(shards: str) -> bool:
    return (Path(shards) / MANIFEST_NAME).is_file()


def _pack_shipped(folder: Path, crop_size: int) -> str:
    return pack_both_ways(write_shipped_parts(folder / "photographs"), folder, crop_size)[0]

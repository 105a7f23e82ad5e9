"""Trains the networks: `torchrun --nproc_per_node=8 launch/train.py --config places2`."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from pathlib import Path

if __package__ in (None, ""):  # started as a script: the repository root is not on the path
    sys.path[0] = str(Path(__file__).resolve().parents[1])
# The reducer warns of a flag that it is given on purpose (see pipeline/engines/ddp.py).
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")

import yaml
from rich.console import Console

from launch.command import EXIT_TRY_AGAIN
from launch.support.agent import die_with_agent, is_elastic, stop_agent_after
from launch.support.arguments import parse_with_config
from pipeline.config.changed_defaults import with_recorded_defaults
from pipeline.config.loading import config_mapping
from pipeline.config.schema import Config
from pipeline.config.validation import world_size_errors
from pipeline.config.warnings import config_warnings
from pipeline.device.precision import precision_warnings
from pipeline.training.preflight import check_run, index_external_sets, world_size_from_environment
from shards.cores import processor_flags


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="glcic train",
        description="Train the completion network and the discriminators through the three phases. "
        "Started again, a run continues from its newest checkpoint.",
    )
    die_with_agent()
    options, config = parse_with_config(parser, arguments)
    config, kept_defaults = with_recorded_defaults(config, options.named_fields)
    if is_elastic():
        _wait_for_usable_size(config, world_size_from_environment())
    index_external_sets(config)
    data = check_run(config, world_size_from_environment())
    config = dataclasses.replace(config, pack=data.recipe)  # as the set was really packed

    from pipeline.engines.start import start_worker
    from pipeline.training.trainer import train  # after the checks: torch takes seconds to import

    worker = start_worker(config)
    console = Console(soft_wrap=True, quiet=not worker.is_main)
    console.print(yaml.safe_dump(config_mapping(config), sort_keys=False), highlight=False)
    if kept_defaults:
        console.print(kept_defaults, highlight=False, markup=False)
    on_cuda = worker.device.type == "cuda"
    emulated = precision_warnings(config.train.precision, on_cuda, processor_flags())
    for warning in config_warnings(config) + emulated:
        console.print(f"warning: {warning}", highlight=False, markup=False)
    outcome = train(config, worker, console)
    if outcome.evaluation is not None:
        console.print(outcome.evaluation.to_table())
        console.print(f"run folder: {config.run_folder}", highlight=False)
    if not outcome.finished:
        console.print(
            f"stopped by a signal after step {outcome.step}, which is saved; the same command "
            "continues there",
            highlight=False,
        )
    worker.close()
    # A Job's pod that exits with 0 counts as completed and would never be started again.
    return 0 if outcome.finished else EXIT_TRY_AGAIN


def _wait_for_usable_size(config: Config, world_size: int) -> None:
    """Does not return where this number of workers cannot share the batch equally."""
    errors = world_size_errors(config, world_size)
    if not errors:
        return
    if os.environ.get("RANK") == "0":
        print(f"waiting for the number of nodes to change: {'; '.join(errors)}", flush=True)

    from pipeline.engines.wait_for_nodes import wait_for_nodes

    wait_for_nodes(config.train.timeout_s)


if __name__ == "__main__":
    from launch.command import run

    sys.exit(stop_agent_after(run("train", main)))

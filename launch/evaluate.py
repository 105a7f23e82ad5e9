"""Measures a checkpoint on the validation shards, beside methods without a network."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

if __package__ in (None, ""):  # started as a script: the repository root is not on the path
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from rich.console import Console

from launch.arguments import parse_with_config
from shards.manifest import load_manifest
from shards.storage import join_url, write_bytes


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="glcic evaluate",
        description="Evaluate a completion network on the validation samples of the packed set "
        "data.shards, after estimating its batch norm anew on training images. Alone or under "
        "torchrun, with the same figures.",
    )
    parser.add_argument(
        "--checkpoint", metavar="URL",
        help="a checkpoint, an exported network, or a run's folder (default: the run's newest "
        "checkpoint)",
    )  # fmt: skip
    parser.add_argument(
        "--output",
        metavar="FILE",
        help="JSON to write (default: evaluation.json in the run folder)",
    )
    options, config = parse_with_config(parser, arguments)
    load_manifest(config.data.shards)  # before torch, which takes seconds to import

    import torch

    from pipeline.evaluation import evaluate_network, recalibrate
    from pipeline.export import load_completion_network
    from pipeline.workers import start_worker

    url = options.checkpoint or config.checkpoint_url
    weights = config.evaluation.weights
    network = load_completion_network(url, weights, torch.device("cpu"))
    worker = start_worker(config, engine="ddp")  # nothing is trained: any engine would do
    layout = torch.channels_last if config.train.channels_last else torch.contiguous_format
    network = network.to(worker.device, memory_format=layout)  # type: ignore[call-overload]
    evaluation = evaluate_network(
        recalibrate(network, config, worker),
        config,
        worker,
        evaluated={"checkpoint": url, "weights": weights},
    )
    if worker.is_main:
        output = options.output or join_url(config.run_folder, "evaluation.json")
        write_bytes(output, evaluation.to_json().encode())
        console = Console(soft_wrap=True)
        console.print(evaluation.to_table())
        console.print(f"written to {output}", highlight=False)
    worker.close()
    return 0


if __name__ == "__main__":
    from launch.command import run

    sys.exit(run("evaluate", main))

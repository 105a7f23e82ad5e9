"""Writes a trained completion network to a folder of its own, ready to be used elsewhere."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path

if __package__ in (None, ""):  # started as a script: the repository root is not on the path
    sys.path[0] = str(Path(__file__).resolve().parents[1])


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="glcic export",
        description="Export the completion network of a checkpoint: weights, batch norm's "
        "statistics re-estimated on training images, and a description.",
    )
    parser.add_argument("checkpoint", help="a checkpoint, or a run's folder for its newest one")
    parser.add_argument("output", help="folder or URL to write to")
    parser.add_argument("--weights", choices=("ema", "raw"), default="ema")
    parser.add_argument("--shards", help="packed set to re-estimate on (default: the run's)")
    options = parser.parse_args(arguments)

    import torch

    from pipeline.checkpoint import read_commitment
    from pipeline.evaluation import recalibrate
    from pipeline.export import find_checkpoint, load_from_checkpoint, save_completion_network
    from pipeline.preflight import training_data
    from pipeline.workers import Worker

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    url = find_checkpoint(options.checkpoint)
    network, config = load_from_checkpoint(url, options.weights, device)
    if options.shards:
        config = dataclasses.replace(
            config, data=dataclasses.replace(config.data, shards=options.shards)
        )
    data = training_data(config)
    network = recalibrate(network, config, Worker(device=device, precision=config.train.precision))
    step = read_commitment(url)["step"]
    facts = {"weights": options.weights, "data_fingerprint": data.fingerprint}
    save_completion_network(options.output, network, config.completion, step, facts)
    print(f"the {options.weights} weights of step {step} are in {options.output}")
    return 0


if __name__ == "__main__":
    from launch.command import run

    sys.exit(run("export", main))

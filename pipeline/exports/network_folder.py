"""A completion network in a folder of its own, and finding one wherever a run has left it.

completion.safetensors    weights, batch norm's statistics and the fill colour
network.json              the network's configuration, what it was trained on and for how long
COMMITTED                 sizes and SHA-256, as in a checkpoint
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from pipeline.checkpoints.format import (
    COMMITTED,
    STATE,
    committed_steps,
    read_commitment,
    read_file,
    step_name,
    write_committed,
)
from pipeline.config.run_identity import recorded_config
from pipeline.config.schema import CompletionConfig, Config
from pipeline.exports.onnx.file import is_onnx_file
from pipeline.exports.onnx.network import load_onnx_network
from pipeline.networks.registry import build_completion
from shards.storage.files import exists, join_url, remove_tree

DESCRIPTION = "network.json"
WEIGHTS = "completion.safetensors"
EXPORT_FOLDER = "network"  # in a run's folder


def save_completion_network(
    url: str, network: nn.Module, config: CompletionConfig, step: int, facts: dict[str, Any]
) -> None:
    """For rank 0 alone."""
    save_described_network(url, network, {"step": step, "completion": asdict(config), **facts})


def save_described_network(url: str, network: nn.Module, description: dict[str, Any]) -> None:
    """`description` is the whole of DESCRIPTION, `step` and `completion` among it.

    Raises ValueError where the folder is a checkpoint.
    """
    if exists(join_url(url, COMMITTED)) and not exists(join_url(url, DESCRIPTION)):
        raise ValueError(f"{url} is a checkpoint, which this would overwrite; name another folder")
    remove_tree(join_url(url, COMMITTED))
    tensors = {name: value.cpu().contiguous() for name, value in network.state_dict().items()}
    files = {
        WEIGHTS: safetensors.torch.save(tensors),
        DESCRIPTION: (json.dumps(description, indent=1) + "\n").encode(),
    }
    write_committed(url, files, description["step"])


def load_completion_network(url: str, weights: str, device: torch.device) -> nn.Module:
    """Return the network at `url`, in evaluation mode: an exported folder or ONNX file, a run's
    folder (its export, or else its newest checkpoint), a folder of checkpoints, or one checkpoint.

    `weights` is "ema" or "raw"; an exported network is what it was exported as. Raises
    FileNotFoundError where there is none, ValueError where it is damaged; for an ONNX file also
    what `load_onnx_network` raises.
    """
    if is_onnx_file(url):
        return load_onnx_network(url, device)
    if exists(join_url(url, DESCRIPTION)):
        return load_exported(url, device)[0]
    if exists(join_url(url, EXPORT_FOLDER, COMMITTED)):
        return load_exported(join_url(url, EXPORT_FOLDER), device)[0]
    return load_from_checkpoint(find_checkpoint(url), weights, device)[0]


def device_for(url: str, asked: str | None) -> torch.device:
    """Where the network at `url` is to run: as asked, else on a GPU if there is one and it can."""
    can = torch.cuda.is_available() and not is_onnx_file(url)
    return torch.device(asked or ("cuda" if can else "cpu"))


def load_exported(url: str, device: torch.device) -> tuple[nn.Module, dict[str, Any]]:
    """Return the network of an exported folder in evaluation mode, and its description."""
    commitment = read_commitment(url)
    description: dict[str, Any] = json.loads(read_file(url, DESCRIPTION, commitment))
    network = build_completion(recorded_config({"completion": description["completion"]}))
    return _fill_network(
        network, lambda: read_file(url, WEIGHTS, commitment), url, device
    ), description


def find_checkpoint(url: str) -> str:
    """Return the checkpoint that `url` is, or the newest one in it. FileNotFoundError where none
    is.
    """
    if exists(join_url(url, COMMITTED)):
        return url
    for folder in (url, join_url(url, "checkpoints")):
        steps = committed_steps(folder)
        if steps:
            return join_url(folder, step_name(steps[-1]))
    raise FileNotFoundError(
        f"{url} holds no trained network: neither an exported one nor a finished checkpoint"
    )


def load_from_checkpoint(url: str, weights: str, device: torch.device) -> tuple[nn.Module, Config]:
    """Return the completion network of a checkpoint in evaluation mode, and the run's
    configuration.
    """
    commitment = read_commitment(url)
    config = recorded_config(json.loads(read_file(url, STATE, commitment))["config"])
    name = "ema.safetensors" if weights == "ema" else WEIGHTS
    network = build_completion(config)
    return _fill_network(network, lambda: read_file(url, name, commitment), url, device), config


def _fill_network(
    network: nn.Module, read: Callable[[], bytes], url: str, device: torch.device
) -> nn.Module:
    tensors: dict[str, Tensor] = safetensors.torch.load(read())
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise ValueError(f"the weights at {url} do not fit their configuration: {error}") from error
    return network.to(device).eval().requires_grad_(False)

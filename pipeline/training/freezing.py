"""Parameters that a run leaves as they are, by name: `--train.freeze '[completion.encoder.*]'`.

Batch norm goes on normalising by its batch in frozen layers too; only parameters are frozen.
"""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Sequence

import torch
from torch import nn

from pipeline.config.schema import Config
from pipeline.networks.registry import build_completion, build_discriminator


def freeze_(network: nn.Module, name: str, patterns: Sequence[str]) -> None:
    """Parameters whose `NAME.parameter` matches a shell-style pattern learn no more."""
    for parameter_name, parameter in network.named_parameters():
        if any(fnmatch.fnmatchcase(f"{name}.{parameter_name}", pattern) for pattern in patterns):
            parameter.requires_grad_(False)


def freezing_errors(config: Config) -> list[str]:
    """Patterns that match nothing, and networks of which nothing would be left to learn."""
    if not config.train.freeze:
        return []
    with torch.device("meta"):  # names alone are needed, no memory
        networks = {
            "completion": build_completion(config),
            "discriminator": build_discriminator(config),
        }
    names = [f"{name}.{p}" for name, net in networks.items() for p, _ in net.named_parameters()]
    errors = []
    for pattern in config.train.freeze:
        if not fnmatch.filter(names, pattern):
            near = difflib.get_close_matches(pattern, [*names, *_stems(names)], n=1, cutoff=0.3)
            hint = f"; did you mean {near[0]}?" if near else ""
            errors.append(f"train.freeze: no parameter is called {pattern!r}{hint}")
    for name, network in networks.items():
        freeze_(network, name, config.train.freeze)
        if not any(parameter.requires_grad for parameter in network.parameters()):
            errors.append(
                f"train.freeze leaves nothing of the {name} network to learn; set the phases that "
                "train it to 0 steps instead"
            )
    return errors


def _stems(names: list[str]) -> list[str]:
    """`completion.encoder.1.conv.weight` -> `completion.encoder.*` and the like."""
    parts = [name.split(".") for name in names]
    return sorted({f"{'.'.join(p[:n])}.*" for p in parts for n in range(1, len(p))})

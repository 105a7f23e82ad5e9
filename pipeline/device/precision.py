"""The precision that `train.precision auto` stands for, and a warning of one that is slow here."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

import yaml

from pipeline.config.schema import Config
from shards.cores import processor_flags
from shards.storage.files import exists, join_url, read_bytes

# Linux's names, on x86 and on ARM, of instructions that multiply in bfloat16.
_BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}


def with_precision(config: Config) -> Config:
    """Return the configuration with `auto` replaced by a precision.

    A run that exists goes on in the precision that it recorded; a new one takes the fastest of
    this machine. Imports torch where that has to be found out.
    """
    if config.train.precision != "auto":
        return config
    precision = _recorded_precision(config)
    if precision is None:
        import torch

        cuda = torch.cuda.is_bf16_supported(False) if torch.cuda.is_available() else None
        precision = fastest_precision(cuda, processor_flags())
    train = dataclasses.replace(config.train, precision=precision)  # type: ignore[arg-type]
    return dataclasses.replace(config, train=train)


def fastest_precision(cuda_has_bfloat16: bool | None, flags: Collection[str]) -> str:
    """Return bf16 where the device multiplies in it, else fp32.

    `cuda_has_bfloat16` is None where there is no GPU; then the processor's `flags` decide.
    """
    if cuda_has_bfloat16 is None:
        return "bf16" if _BFLOAT16_FLAGS & set(flags) else "fp32"
    return "bf16" if cuda_has_bfloat16 else "fp32"


def precision_warnings(precision: str, on_cuda: bool, flags: Collection[str]) -> list[str]:
    """Return a sentence for a precision that this processor can only emulate."""
    emulated = precision in ("bf16", "fp16") and not on_cuda
    if not emulated or not flags or _BFLOAT16_FLAGS & set(flags):
        return []
    return [
        f"train.precision is {precision}, but this processor has no instructions for it: training "
        "is several times slower than with --train.precision fp32 (or auto)"
    ]


def _recorded_precision(config: Config) -> str | None:
    url = join_url(config.run_folder, "config.yaml")
    if config.resume == "never" or not exists(url):
        return None
    recorded = yaml.safe_load(read_bytes(url)) or {}
    precision = recorded.get("train", {}).get("precision")
    return precision if precision in ("bf16", "fp16", "fp32") else None

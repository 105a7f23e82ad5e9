"""torch.compile for the networks of a run."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch
from torch import nn

P = ParamSpec("P")
T = TypeVar("T")

BACKEND = "inductor"


def compile_(network: nn.Module) -> None:
    """In place, so that the names in its state stay; each kind of call is compiled on its first.

    Forwards that train and `TrainableNetwork.frozen`, whose parameters need no gradient, become
    graphs of their own: torch decides by what it is given, and nothing is toggled.
    """
    network.compile(backend=BACKEND, fullgraph=True, dynamic=False)


def compiled(function: Callable[P, T]) -> Callable[P, T]:
    """Compile a function, as `compile_` does with a network's forward."""
    return torch.compile(function, backend=BACKEND, fullgraph=True, dynamic=False)


def require_compiler(device: torch.device, field: str, without: str) -> None:
    """Raises RuntimeError where torch.compile would fail, rather than at the first step.

    `field` of the configuration needs it; set to `without`, it does not.
    """
    if BACKEND != "inductor":
        return
    if device.type == "cuda":
        # Private, but what inductor itself asks; triton comes with torch's CUDA builds.
        from torch.utils._triton import has_triton

        if not has_triton():
            raise RuntimeError(
                f"{field} needs triton on a GPU, which this installation of torch cannot use; "
                f"install triton or set --{field.split()[0]} {without}"
            )
        if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
            raise RuntimeError(
                f"{field} needs a C compiler on a GPU, with which triton builds its launchers; "
                f"install gcc, name one in CC, or set --{field.split()[0]} {without}"
            )
        return
    from torch._inductor.cpp_builder import get_cpp_compiler

    try:
        get_cpp_compiler()
    except Exception as error:
        raise RuntimeError(
            f"{field} needs a C++ compiler on the CPU and found none ({type(error).__name__}); "
            f"install g++, name one in CXX, or set --{field.split()[0]} {without}"
        ) from error

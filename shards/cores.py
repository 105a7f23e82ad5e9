"""The processors of this machine: how many this process may use, and what they are called."""

from __future__ import annotations

import os
import platform
from pathlib import Path


def available_cores() -> int:
    """The cores of the process's affinity, which a container's CPU set narrows; at least 1."""
    if hasattr(os, "sched_getaffinity"):  # Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def processor_name() -> str:
    """As the system names it, for a reader of results; with family and model, in which generations
    differ that a virtual machine calls alike.
    """
    cpu_info = Path("/proc/cpuinfo")
    if cpu_info.is_file():
        first = cpu_info.read_text().split("\n\n")[0]
        facts = dict(_fact(line) for line in first.splitlines())
        if name := facts.get("model name"):
            family, model = facts.get("cpu family"), facts.get("model")
            return f"{name} (family {family}, model {model})" if family and model else name
    return platform.processor() or platform.machine()


def processor_flags() -> frozenset[str]:
    """Return the names of the processor's instruction sets, as Linux lists them; elsewhere none."""
    cpu_info = Path("/proc/cpuinfo")
    if not cpu_info.is_file():
        return frozenset()
    facts = dict(_fact(line) for line in cpu_info.read_text().splitlines())
    return frozenset(facts.get("flags", facts.get("Features", "")).split())


def _fact(line: str) -> tuple[str, str]:
    name, _, value = line.partition(":")
    return name.strip(), value.strip()

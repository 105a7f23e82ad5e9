"""One JSON schema for the results of all benchmarks."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from shards.cores import available_cores, processor_name

SCHEMA_VERSION = 1
RESULTS_FOLDER = Path(__file__).parents[1] / "results"

_PACKAGES = {  # name in the result -> distributions, of which one is installed
    "numpy": ("numpy",),
    "simplejpeg": ("simplejpeg",),
    "opencv": ("opencv-python-headless", "opencv-python"),
    "pillow": ("pillow",),
    "torch": ("torch",),
    "webdataset": ("webdataset",),
}


@dataclass(frozen=True)
class Measurement:
    """One measured quantity. `runs` holds its value in every round, in their order."""

    group: str  # figures of one group stand in one table
    name: str
    unit: str  # "images/s", "dB"; "ratio" where two figures of the same round were divided
    median: float
    minimum: float
    maximum: float
    runs: list[float]

    @classmethod
    def of_runs(cls, group: str, name: str, unit: str, runs: Sequence[float]) -> Measurement:
        values = [float(value) for value in runs]
        return cls(group, name, unit, statistics.median(values), min(values), max(values), values)


@dataclass(frozen=True)
class Table:
    """What does not fit a figure's columns; cells as they are printed, numbers with their unit."""

    title: str
    columns: list[str]
    rows: list[list[str]]


@dataclass(frozen=True)
class Hardware:
    cpu: str
    cores: int  # that the benchmark could use
    memory_bytes: int
    accelerator: str = ""  # the GPU's name; empty: there is none


@dataclass(frozen=True)
class Result:
    name: str  # of the benchmark
    command: str  # without the folders of the machine it ran on
    parameters: dict[str, Any]
    figures: list[Measurement]
    date: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    hardware: Hardware = field(default_factory=lambda: this_hardware())
    versions: dict[str, str] = field(default_factory=lambda: installed_versions())
    tables: list[Table] = field(default_factory=list)
    pictures: list[str] = field(default_factory=list)  # files beside the result
    schema_version: int = SCHEMA_VERSION


def write_result(path: Path, result: Result) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(asdict(result), indent=1) + "\n", encoding="utf-8")


def read_result(path: Path) -> Result:
    """Raises ValueError, naming the file, for what is not a result of this schema."""
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if content["schema_version"] != SCHEMA_VERSION:
            raise ValueError(f"schema version {content['schema_version']}, not {SCHEMA_VERSION}")
        figures = [Measurement(**figure) for figure in content["figures"]]
        read = {
            "figures": figures,
            "hardware": Hardware(**content["hardware"]),
            "tables": [Table(**table) for table in content.get("tables", [])],
        }
        return Result(**content | read)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not a benchmark result ({error}); run it again") from error


def read_results(folder: Path) -> list[Result]:
    """Return the benchmarks' results of a folder, by file name.

    Documents of another kind are left out: evaluations and studies lie there too.
    """
    paths = sorted(folder.glob("*.json"))
    return [read_result(path) for path in paths if not _is_of_another_kind(path)]


def _is_of_another_kind(path: Path) -> bool:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return False  # damaged: reading it says so
    return isinstance(content, dict) and not {"schema_version", "figures"} & content.keys()


def this_hardware() -> Hardware:
    import torch  # not above: processes that measure loading do without it

    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    return Hardware(processor_name(), available_cores(), memory, gpu)


def installed_versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name, distributions in _PACKAGES.items():
        versions[name] = next(filter(None, map(_version, distributions)), "not installed")
    return versions


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return ""

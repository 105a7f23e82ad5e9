"""Where, when and by what the figures of a study were measured, and sentences that say so."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from pipeline.study.definition import Study, study_runs
from pipeline.study.results import Results
from shards.cores import available_cores, processor_name
from shards.format.manifest import load_manifest

_ROOT = Path(__file__).resolve().parents[2]
_PACKAGES = ("torch", "numpy", "scikit-image", "scipy", "onnxruntime")
_OPENCV = ("opencv-python-headless", "opencv-python", "opencv-contrib-python-headless")


def this_environment() -> dict[str, Any]:
    """Return date, commit, hardware and versions of what runs here and now.

    The commit is empty outside a repository, and ends in "+" where files differ from it.
    """
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "hardware": {
            "cpu": processor_name(),
            "cores": available_cores(),
            "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
            "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else "",
        },
        "versions": {name: found for name in (*_PACKAGES, *_OPENCV) if (found := _version(name))},
    }


def study_provenance(study: Study, folder: str, results: Results, command: str) -> dict[str, Any]:
    """Return what `provenance_lines` and a record's reader need to know of the figures.

    Date, hardware and versions are those of the newest measurement, commits those of all: a page
    that is written again later, or elsewhere, does not change them.
    """
    runs = study_runs(study, folder)
    config = runs[0].config
    training, evaluation = map(load_manifest, (config.data.shards, config.validation_shards))
    judges = [one.judge for by_seed in results.values() for one in by_seed.values() if one.judge]
    newest: dict[str, Any] = max(
        judges, key=lambda judge: judge["made"]["date"], default={"made": {}}
    )
    return {
        "command": command,
        **newest["made"],
        "commit": ", ".join(sorted({judge["made"]["commit"] for judge in judges} - {""})),
        "photographs": {
            "training": study.source,
            "evaluation": study.evaluation_source or study.source,
        },
        "num_training_images": training.num_images("train"),
        "crop_size_px": config.crop_size,
        "evaluation_set": {
            "fingerprint": evaluation.fingerprint,
            "num_images": evaluation.num_images("val"),
            "num_samples": evaluation.num_samples("val"),
        },
        # of the networks that judge; those of FID and LPIPS, where they were given
        "networks_sha256": newest.get("networks_sha256", {}),
        "schedule": {
            "unit": config.schedule.unit,
            "completion": config.schedule.completion,
            "discriminator": config.schedule.discriminator,
            "joint": config.schedule.joint,
            "batch_size": config.train.batch_size,
            "precision": config.train.precision,
        },
        "num_runs": len(runs),
        "missing_runs": [run.name for run in runs if run.seed not in results[run.arm]],
    }


def provenance_lines(study: Study, provenance: Mapping[str, Any]) -> list[str]:
    """Return the sentences at the head of a page."""
    schedule, photographs = provenance["schedule"], provenance["photographs"]
    evaluation, missing = provenance["evaluation_set"], provenance["missing_runs"]
    where = photographs["evaluation"]
    place = f"of {where}" if where != photographs["training"] else "that the source sets aside"
    lines = [
        f"Command: {provenance['command']}",
        f"Runs: {provenance['num_runs'] - len(missing)} of {provenance['num_runs']} have ended; "
        f"seeds {', '.join(map(str, study.seeds))}",
        f"Each run: {schedule['completion']} + {schedule['discriminator']} + {schedule['joint']} "
        f"{schedule['unit']} (completion, discriminators, both), batches of "
        f"{schedule['batch_size']}, {schedule['precision']}; arms may differ from that",
        f"Trained on {provenance['num_training_images']} images of {photographs['training']}, in "
        f"crops of {provenance['crop_size_px']} pixels",
        f"Measured on {evaluation['num_samples']} samples of {evaluation['num_images']} validation "
        f"images {place}, the same for all; set {evaluation['fingerprint'][:16]}",
    ]
    lines += [
        f"Network for {name.removesuffix('_network_sha256')}: SHA-256 {digest[:16]}"
        for name, digest in provenance["networks_sha256"].items()
    ]
    if missing:
        lines.append(f"Missing: {', '.join(missing)}")
    return lines + _environment_lines(provenance)


def _environment_lines(provenance: Mapping[str, Any]) -> list[str]:
    if "hardware" not in provenance:  # nothing has been measured yet
        return []
    hardware, versions = provenance["hardware"], provenance["versions"]
    machine = [f"{hardware['cpu']}, {hardware['cores']} cores"]
    if hardware["accelerator"]:
        machine.append(hardware["accelerator"])
    commit = f", commit {provenance['commit']}" if provenance["commit"] else ""
    return [
        f"Measured {provenance['date'][:10]}, {', '.join(machine)}, "
        f"torch {versions['torch']}{commit}"
    ]


def _commit() -> str:
    def git(*arguments: str) -> str:
        command = ["git", "-C", str(_ROOT), *arguments]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=10, check=True
        ).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "--short", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return ""


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return ""

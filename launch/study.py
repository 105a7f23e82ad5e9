"""`glcic study PRESET`: trains arms under several seeds and writes the page that compares them."""

from __future__ import annotations

import argparse
import datetime
import os
import sys
from pathlib import Path
from typing import Any

if __package__ in (None, ""):  # started as a script: the repository root is not on the path
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from rich.console import Console

from launch.arguments import read_yaml
from launch.command import EXIT_SOFTWARE
from launch.progress import PlainProgress
from pipeline.study.definition import Study, StudyRun, packed_sets, parse_study, study_runs
from shards.cores import available_cores, processor_name
from shards.manifest import load_manifest
from shards.pack import pack_images

STUDIES = Path(__file__).resolve().parent / "studies"


def main(arguments: list[str]) -> int:
    options = _parser().parse_args(arguments)
    study = parse_study(_read(options.study, options.source))
    folder = options.folder or Path("runs") / study.name
    runs = study_runs(study, str(folder))
    console = Console(soft_wrap=True)
    failed: list[StudyRun] = []
    if not options.page_only:
        _pack(study, folder, console)
        failed = _train(runs, folder, options, console)
    _write_page(study, folder, options.page or folder, console)
    for run in failed:
        from launch.study_processes import log_path

        console.print(f"failed: {run.name}, see {log_path(run, folder)}", highlight=False)
    return EXIT_SOFTWARE if failed else 0


def _parser() -> argparse.ArgumentParser:
    known = ", ".join(sorted(path.stem for path in STUDIES.glob("*.yaml")))
    parser = argparse.ArgumentParser(
        prog="glcic study",
        description="Train every arm of a study under every seed, evaluate all on the same fixed "
        "masks, and write a page with tables, curves and pictures. Started again, it goes on where "
        "it was.",
    )
    parser.add_argument("study", help=f"YAML file, or one that ships: {known}")
    parser.add_argument("--source", help="photographs in class folders, instead of the study's")
    parser.add_argument("--folder", type=Path, help="of sets, runs and page (runs/NAME)")
    parser.add_argument(
        "--page", type=Path, metavar="FOLDER", help="where the page goes, if not there"
    )
    parser.add_argument(
        "--side-by-side", type=int, default=1, metavar="N", help="runs at a time (%(default)s)"
    )
    parser.add_argument(
        "--workers", type=int, default=1, metavar="N",
        help="of each run, under torchrun where it is more than one (%(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--page-only", action="store_true", help="of the runs that have ended; trains nothing"
    )
    return parser


def _read(name: str, source: str | None) -> dict[str, Any]:
    mapping = read_yaml(name, STUDIES, name, "studies")
    return {**mapping, **({"source": source} if source else {})}


def _pack(study: Study, folder: Path, console: Console) -> None:
    if not Path(study.source).exists() and "://" not in study.source:
        raise FileNotFoundError(
            f"the photographs of the study, {study.source}, are not there; `glcic samples "
            "data/samples` makes those of the studies that ship, --source names others"
        )
    sets = packed_sets(study, str(folder))
    for number, (destination, recipe) in enumerate(sets.items(), start=1):
        progress = PlainProgress("packed", f"images of set {number} of {len(sets)}")
        pack_images(study.source, destination, recipe, progress=progress)


def _train(
    runs: list[StudyRun], folder: Path, options: argparse.Namespace, console: Console
) -> list[StudyRun]:
    from launch.study_processes import log_path, train_runs

    done = 0

    def report(run: StudyRun, seconds: float, status: int) -> None:
        nonlocal done
        done += 1
        outcome = f"in {seconds:.0f} s" if not status else f"FAILED, see {log_path(run, folder)}"
        console.print(f"{run.name} {outcome}", highlight=False)

    console.print(f"{len(runs)} runs, {options.side_by_side} at a time", highlight=False)
    return train_runs(
        runs, folder, side_by_side=options.side_by_side, workers=options.workers, report=report
    )


def _write_page(study: Study, folder: Path, page: Path, console: Console) -> None:
    from pipeline.study.page import render_html, render_markdown, study_sections
    from pipeline.study.results import gather_results, is_finished
    from pipeline.study.running_statistics import evaluate_running_statistics

    runs = study_runs(study, str(folder))
    for run in runs:
        if is_finished(run):
            evaluate_running_statistics(run.config, threads=available_cores())
    results = gather_results(study, str(folder))
    sections = study_sections(study, results, str(folder))
    facts = _facts(study, runs, sum(len(one) for one in results.values()))
    pictures = page / study.name
    pictures.mkdir(parents=True, exist_ok=True)
    for section in sections:
        for picture in section.pictures:
            (pictures / picture.name).write_bytes(picture.data)
    (page / f"{study.name}.md").write_text(render_markdown(study, sections, facts))
    (page / f"{study.name}.html").write_text(render_html(study, sections, facts))
    console.print(f"page: {page / study.name}.html and .md", highlight=False)


def _facts(study: Study, runs: list[StudyRun], num_ended: int) -> list[str]:
    import torch

    config = runs[0].config
    manifest = load_manifest(config.validation_shards)
    schedule, num_evaluated = config.schedule, manifest.num_samples("val")
    if config.evaluation.limit:
        num_evaluated = min(num_evaluated, config.evaluation.limit)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else processor_name()
    return [
        f"Command: glcic study {study.name}",
        f"{num_ended} of {len(runs)} runs have ended; seeds {', '.join(map(str, study.seeds))}",
        f"Each run: {schedule.completion} + {schedule.discriminator} + {schedule.joint} "
        f"{schedule.unit} (completion, discriminators, both), batches of {config.train.batch_size}",
        f"All are evaluated on the same {num_evaluated} validation samples",
        f"{manifest.num_images('train')} training images of {config.crop_size} pixels",
        f"{datetime.date.today().isoformat()}, {device}, {os.cpu_count()} cores, torch "
        f"{torch.__version__}",
    ]


if __name__ == "__main__":
    from launch.command import run as run_verb

    sys.exit(run_verb("study", main))

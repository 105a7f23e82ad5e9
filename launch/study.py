"""`glcic study PRESET`: trains arms under several seeds and writes the page that compares them."""

from __future__ import annotations

import argparse
import datetime
import multiprocessing
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

if __package__ in (None, ""):  # started as a script: the repository root is not on the path
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from rich.console import Console

from launch.arguments import read_yaml
from launch.command import EXIT_SOFTWARE
from launch.progress import PlainProgress
from pipeline.study.definition import (
    Study,
    StudyRun,
    packed_sets,
    parse_study,
    study_runs,
    with_part,
)
from shards.cores import processor_name
from shards.manifest import load_manifest
from shards.pack import pack_images

STUDIES = Path(__file__).resolve().parent / "studies"


def main(arguments: list[str]) -> int:
    options = _parser().parse_args(arguments)
    study = parse_study(_read(options.study, options.source))
    study = with_part(study, options.seeds, options.arms)
    folder = options.folder or Path("runs") / study.name
    runs = study_runs(study, str(folder))
    console = Console(soft_wrap=True)
    failed: list[StudyRun] = []
    if not options.page_only:
        _pack(study, folder, console)
        failed = _train(runs, folder, options, console)
    _judge(runs, options, console)
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
        "--seeds", type=int, nargs="+", default=[], metavar="SEED", help="instead of the study's"
    )
    parser.add_argument(
        "--arms", nargs="+", default=[], metavar="ARM",
        help="train these alone; questions about others stay open",
    )  # fmt: skip
    parser.add_argument(
        "--features", metavar="FILE.onnx", default="",
        help="network whose features FID and KID compare, see `glcic evaluate`",
    )  # fmt: skip
    parser.add_argument(
        "--lpips", metavar="FILE.onnx", default="", help="network that gives LPIPS of two images"
    )
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


def _judge(runs: list[StudyRun], options: argparse.Namespace, console: Console) -> None:
    """Measure what has ended; the first also beside the methods without a network."""
    from pipeline.study.judging import Judge
    from pipeline.study.results import is_finished

    judge = Judge(features=options.features, lpips=options.lpips)
    finished = [run for run in runs if is_finished(run)]
    console.print(f"measuring {len(finished)} networks", highlight=False)
    context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    with ProcessPoolExecutor(options.side_by_side, context, set_threads, (1,)) as pool:
        judged = [
            pool.submit(judge.judge, run.config, baselines=number == 0)
            for number, run in enumerate(finished)
        ]
        for one in judged:
            one.result()


def set_threads(threads: int) -> None:
    """Set torch's threads in a process of the pool."""
    import torch

    torch.set_num_threads(threads)


def _write_page(study: Study, folder: Path, page: Path, console: Console) -> None:
    from pipeline.study.page import render_html, render_markdown, study_sections
    from pipeline.study.record import study_record
    from pipeline.study.results import gather_results

    runs = study_runs(study, str(folder))
    results = gather_results(study, str(folder))
    sections = study_sections(study, results, str(folder))
    facts = _facts(study, runs, sum(len(one) for one in results.values()))
    pictures = page / study.name
    pictures.mkdir(parents=True, exist_ok=True)
    for section in sections:
        for picture in section.pictures:
            (pictures / picture.name).write_bytes(picture.data)
    lines = [f"{name}: {value}" for name, value in facts.items()]
    (page / f"{study.name}.json").write_text(study_record(study, results, facts))
    (page / f"{study.name}.md").write_text(render_markdown(study, sections, lines))
    (page / f"{study.name}.html").write_text(render_html(study, sections, lines))
    console.print(f"page: {page / study.name}.html, .md and .json", highlight=False)


def _facts(study: Study, runs: list[StudyRun], num_ended: int) -> dict[str, str]:
    import torch

    config = runs[0].config
    manifest = load_manifest(config.validation_shards)
    schedule = config.schedule
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else processor_name()
    return {
        "Command": f"glcic study {study.name}",
        "Photographs": study.source,
        "Runs": f"{num_ended} of {len(runs)} have ended; seeds {', '.join(map(str, study.seeds))}",
        "Each run": f"{schedule.completion} + {schedule.discriminator} + {schedule.joint} "
        f"{schedule.unit} (completion, discriminators, both), batches of "
        f"{config.train.batch_size}, {config.train.precision}",
        "Trained on": f"{manifest.num_images('train')} images of {config.crop_size} pixels",
        "Measured on": f"{manifest.num_samples('val')} validation samples, the same for all; set "
        f"{manifest.fingerprint[:16]}",
        "Date": datetime.date.today().isoformat(),
        "Machine": f"{device}, {os.cpu_count()} cores, torch {torch.__version__}",
    }


if __name__ == "__main__":
    from launch.command import run as run_verb

    sys.exit(run_verb("study", main))

"""`glcic study PRESET`: trains arms under several seeds and writes the page that compares them."""

from __future__ import annotations

import argparse
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

if __package__ in (None, ""):  # started as a script: the repository root is not on the path
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from rich.console import Console

from launch.command import EXIT_SOFTWARE
from launch.support.arguments import read_yaml
from launch.support.former_names import add_former_name
from launch.support.progress import PlainProgress
from pipeline.study.definition import Study, StudyRun, packed_sets, parse_study, study_runs
from shards.cores import available_cores
from shards.packing.pack import pack_images

STUDIES = Path(__file__).resolve().parent / "studies"


def main(arguments: list[str]) -> int:
    options = _parser().parse_args(arguments)
    study = parse_study(_read(options))
    folder = options.folder or Path("runs") / study.name
    runs = study_runs(study, str(folder))
    wanted = _of_arms(runs, options.arms)
    console = Console(soft_wrap=True)
    failed: list[StudyRun] = []
    if not options.page_only:
        _pack(study, folder)
        failed = _train(wanted, folder, options, console)
    _judge(runs, options, console)
    _write_page(study, folder, options, console)
    for run in failed:
        from launch.support.study_processes import log_path

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
    parser.add_argument(
        "--evaluation-source", metavar="FOLDER",
        help="photographs that no arm trains on, to evaluate all arms on (default: those that the "
        "source sets aside)",
    )  # fmt: skip
    parser.add_argument("--folder", type=Path, help="of sets, runs and page (runs/NAME)")
    parser.add_argument(
        "--page", type=Path, metavar="FOLDER", help="where the page goes, if not there"
    )
    parallel_runs = parser.add_argument(
        "--parallel-runs", type=int, default=1, metavar="N", help="runs at a time (%(default)s)"
    )
    add_former_name(parser, "--side-by-side", parallel_runs)
    parser.add_argument(
        "--workers", type=int, default=1, metavar="N",
        help="of each run, under torchrun where it is more than one (%(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[], metavar="SEED", help="instead of the study's"
    )
    parser.add_argument(
        "--arms", nargs="+", default=[], metavar="ARM",
        help="train these alone; the page has all that have ended",
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


def _read(options: argparse.Namespace) -> dict[str, Any]:
    mapping: dict[str, Any] = read_yaml(options.study, STUDIES, options.study, "studies")
    overrides = {
        "source": options.source,
        "evaluation_source": options.evaluation_source,
        "seeds": options.seeds,
    }
    return mapping | {name: value for name, value in overrides.items() if value}


def _of_arms(runs: list[StudyRun], arms: list[str]) -> list[StudyRun]:
    """Return the runs of the named arms; of all where none is named."""
    known = list(dict.fromkeys(run.arm for run in runs))
    missing = [arm for arm in arms if arm not in known]
    if missing:
        raise ValueError(f"--arms {', '.join(missing)}: arms are {', '.join(known)}")
    return [run for run in runs if not arms or run.arm in arms]


def _pack(study: Study, folder: Path) -> None:
    sets = packed_sets(study, str(folder))
    for one in sets.values():
        if not Path(one.source).exists() and "://" not in one.source:
            raise FileNotFoundError(
                f"the photographs of the study, {one.source}, are not there; `glcic samples "
                "data/samples` makes those of the studies that ship, --source and "
                "--evaluation-source name others"
            )
    for number, (destination, one) in enumerate(sets.items(), start=1):
        progress = PlainProgress("packed", f"images of set {number} of {len(sets)}")
        pack_images(one.source, destination, one.recipe, progress=progress)


def _train(
    runs: list[StudyRun], folder: Path, options: argparse.Namespace, console: Console
) -> list[StudyRun]:
    from launch.support.study_processes import log_path, train_runs

    done = 0

    def report(run: StudyRun, seconds: float, status: int) -> None:
        nonlocal done
        done += 1
        outcome = f"in {seconds:.0f} s" if not status else f"FAILED, see {log_path(run, folder)}"
        console.print(f"{run.name} {outcome}", highlight=False)

    console.print(f"{len(runs)} runs, {options.parallel_runs} at a time", highlight=False)
    return train_runs(
        runs, folder, parallel_runs=options.parallel_runs, workers=options.workers, report=report
    )


def _judge(runs: list[StudyRun], options: argparse.Namespace, console: Console) -> None:
    """Measure what has ended; the first also beside the methods without a network."""
    from launch.support.study_processes import has_ended
    from pipeline.study.judging import Judge

    judge = Judge(features=options.features, lpips=options.lpips)
    finished = [run for run in runs if has_ended(run)]
    console.print(f"measuring {len(finished)} networks", highlight=False)
    context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    threads = max(1, available_cores() // options.parallel_runs)
    with ProcessPoolExecutor(options.parallel_runs, context, set_threads, (threads,)) as pool:
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


def _write_page(study: Study, folder: Path, options: argparse.Namespace, console: Console) -> None:
    from pipeline.study.page import render_html, render_markdown, study_sections
    from pipeline.study.provenance import provenance_lines, study_provenance
    from pipeline.study.record import study_record
    from pipeline.study.results import gather_results

    page = options.page or folder
    results = gather_results(study, str(folder))
    provenance = study_provenance(study, str(folder), results, _command(options))
    sections = study_sections(study, results, str(folder))
    lines = provenance_lines(study, provenance)
    pictures = page / study.name
    pictures.mkdir(parents=True, exist_ok=True)
    for section in sections:
        for picture in section.pictures:
            (pictures / picture.name).write_bytes(picture.data)
    (page / f"{study.name}.json").write_text(study_record(study, results, provenance))
    (page / f"{study.name}.md").write_text(render_markdown(study, sections, lines))
    (page / f"{study.name}.html").write_text(render_html(study, sections, lines))
    console.print(f"page: {page / study.name}.html, .md and .json", highlight=False)


def _command(options: argparse.Namespace) -> str:
    """Return the command as far as the figures depend on it, without this machine's folders."""
    words = ["glcic", "study", Path(options.study).stem]
    for name in ("source", "evaluation_source", "features", "lpips"):
        if value := getattr(options, name):
            words += [f"--{name.replace('_', '-')}", Path(value).name]
    if options.seeds:
        words += ["--seeds", *map(str, options.seeds)]
    return " ".join(words)


if __name__ == "__main__":
    from launch.command import run as run_verb

    sys.exit(run_verb("study", main))

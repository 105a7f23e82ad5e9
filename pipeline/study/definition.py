"""What a study consists of: arms that differ in named switches alone, each under the same seeds.

A study is one YAML file. All arms share `base`, a configuration of a run; an arm says what it
changes. Under one seed all arms start from the same weights, as far as they have the same layers,
and see the same samples in the same order, as far as they are packed alike.
"""

from __future__ import annotations

import copy
import dataclasses
import difflib
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import pydantic

from pipeline.config.baseline_names import BASELINE_NAMES
from pipeline.config.loading import parse_config
from pipeline.config.schema import Config
from pipeline.evaluation.metrics import METRICS
from shards.format.recipe import PackRecipe
from shards.storage.files import join_url

RUNNING_PREFIX = "running_statistics_"  # of figures with batch norm as training left it
BLENDED_PREFIX = "blended_"  # of figures after the paper's post-processing
CHANGES = {  # figures of a study alone: (the figure whose change it is, its heading)
    "hole_mse_change": ("hole_mse", "MSE in the hole, end / end of first phase"),
    "known_mse_change": ("known_mse_of_raw", "raw MSE of known pixels, end / end of first phase"),
}
FIRST_PHASE_PREFIX = "first_phase_"  # of the figures that those changes start from

_WORD = re.compile(r"[a-z0-9][a-z0-9-]*")
_OF_THE_STUDY = ("name", "folder", "seed", "resume")  # fields of a run that no arm may set


@dataclass(frozen=True)
class StudyArm:
    label: str  # what tables and pictures call it
    switches: dict[str, Any] = field(default_factory=dict)  # what it changes of the base


@dataclass(frozen=True)
class StudyFigure:
    """One question of the study, and the arms that answer it."""

    title: str
    question: str
    arms: tuple[str, ...] = ()  # the first is what the others are compared with
    rows: tuple[str, ...] = ("hole_mse", "hole_psnr_db", "known_mse_of_raw")  # of its table
    curves: bool = False  # of errors and discriminators while training
    sheet: Literal["none", "completion", "raw", "both"] = "none"  # what is shown of each arm
    baselines: bool = False  # its table has the classic methods too
    preprocessing: bool = False  # shows packed samples instead


@dataclass(frozen=True)
class StudyAnswer:
    """One claim that the study examines, see `pipeline.study.answers`."""

    question: str
    arm: str
    # What the arm is compared with: an arm, or a method without learned weights by its name. Empty:
    # its own state at the end of the first phase, for the figures that are such changes.
    reference: str = ""
    figure: str = "hole_mse"
    claim: Literal["lower", "higher", "differs", "same"] = "lower"
    margin_percent: float = 3.0  # the smallest effect that matters


@dataclass(frozen=True)
class Study:
    name: str
    # Photographs in class folders, or in train/ and val/, as `glcic pack` takes them.
    source: str
    seeds: tuple[int, ...]
    base: dict[str, Any]
    arms: dict[str, StudyArm]
    figures: tuple[StudyFigure, ...]
    answers: tuple[StudyAnswer, ...] = ()
    purpose: str = ""  # a sentence for the page
    # Photographs that no arm trains on, to evaluate all arms on: all of the folder, or its val/.
    # Empty: those that `source` sets aside for validation.
    evaluation_source: str = ""
    # Masks of the set that all arms are evaluated on; empty: those of the base.
    evaluation_masks: dict[str, Any] = field(default_factory=dict)
    sheet_images: int = 4


@dataclass(frozen=True)
class StudyRun:
    """One arm under one seed."""

    arm: str
    seed: int
    config: Config

    @property
    def name(self) -> str:
        return self.config.name


def parse_study(mapping: Mapping[str, Any]) -> Study:
    """Raises ValueError with all errors of the study and of the configuration of each arm."""
    try:
        study = pydantic.TypeAdapter(Study).validate_python(dict(mapping))
    except pydantic.ValidationError as error:
        lines = [
            f"{'.'.join(map(str, detail['loc']))}: {detail['msg']}" for detail in error.errors()
        ]
        raise ValueError("the study cannot be used:\n  " + "\n  ".join(lines)) from error
    unknown = sorted(set(mapping) - {entry.name for entry in dataclasses.fields(Study)})
    errors = [f"{name} is not a field of a study" for name in unknown]
    errors += _study_errors(study)
    if errors:
        raise ValueError("the study cannot be used:\n  " + "\n  ".join(errors))
    return study


def _study_errors(study: Study) -> list[str]:
    errors = []
    for name in (study.name, *study.arms):
        if not _WORD.fullmatch(name):
            errors.append(f"{name!r} names a folder: use lower-case letters, digits and dashes")
    if not study.arms:
        errors.append("arms is empty: name at least one")
    if not study.seeds or len(set(study.seeds)) < len(study.seeds):
        errors.append(f"seeds is {list(study.seeds)}: give at least one, none twice")
    for figure in study.figures:
        missing = [arm for arm in figure.arms if arm not in study.arms]
        if missing:
            known = ", ".join(study.arms)
            errors.append(f"figure {figure.title!r} shows {', '.join(missing)}; arms: {known}")
        errors += [f"figure {figure.title!r} has a row {error}" for error in _unknown(figure.rows)]
        if not figure.arms and not figure.preprocessing:
            errors.append(f"figure {figure.title!r} shows no arm")
    errors += [error for asked in study.answers for error in _answer_errors(study, asked)]
    if study.evaluation_source and study.evaluation_source == study.source:
        errors.append(
            f"evaluation_source is the source, {study.source}, which the arms train on; name other "
            "photographs, or leave it out"
        )
    for name, arm in study.arms.items():
        taken = [key for key in _OF_THE_STUDY if key in arm.switches]
        if taken:
            errors.append(f"arm {name} sets {', '.join(taken)}, which the study sets itself")
        try:
            parse_config(_merge(study.base, arm.switches))
        except ValueError as error:
            errors.append(f"arm {name}: {error}")
    return errors


def _unknown(names: Iterable[str]) -> list[str]:
    prefixed = [
        f"{prefix}{name}" for prefix in (RUNNING_PREFIX, BLENDED_PREFIX) for name in METRICS
    ]
    prefixed += [f"{FIRST_PHASE_PREFIX}{name}" for name, _ in CHANGES.values()]
    known, errors = [*METRICS, *CHANGES, *prefixed], []
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(METRICS)}"
            errors.append(f"{name!r}, which is none; {hint}")
    return errors


def _answer_errors(study: Study, asked: StudyAnswer) -> list[str]:
    prefix = f"answer {asked.question!r}"
    errors = [f"{prefix} has a figure {error}" for error in _unknown([asked.figure])]
    known = {asked.arm: study.arms, asked.reference: (*study.arms, *BASELINE_NAMES, "")}
    errors += [
        f"{prefix} compares {name}; known: {', '.join(filter(None, names))}"
        for name, names in known.items()
        if name not in names
    ]
    if not asked.reference and asked.figure not in CHANGES:
        errors.append(f"{prefix} has no reference, which only {', '.join(CHANGES)} may go without")
    if asked.margin_percent <= 0:
        errors.append(f"{prefix} has margin_percent {asked.margin_percent}: must be above 0")
    return errors


def study_runs(study: Study, folder: str) -> list[StudyRun]:
    """Return the runs, all arms of the first seed first: so an interrupted study can be compared
    already.
    """
    return [
        StudyRun(arm, seed, _run_config(study, arm, seed, folder))
        for seed in study.seeds
        for arm in study.arms
    ]


def _run_config(study: Study, arm: str, seed: int, folder: str) -> Config:
    mapping = _merge(study.base, study.arms[arm].switches)
    name = f"{arm}-seed-{seed}"
    mapping |= {"name": name, "folder": join_url(folder, "runs", name), "seed": seed}
    recipe = parse_config(mapping).pack
    mapping["data"] = {**mapping.get("data", {}), "shards": set_folder(folder, recipe)}
    mapping["evaluation"] = {
        **mapping.get("evaluation", {}),
        "shards": set_folder(folder, evaluation_recipe(study)),
    }
    return parse_config(mapping)


def evaluation_recipe(study: Study) -> PackRecipe:
    """Return the recipe of the set that all arms are evaluated on."""
    changes: dict[str, Any] = {"masks": study.evaluation_masks}
    if study.evaluation_source:
        changes["validation_fraction"] = 1  # none of its photographs is for training
    return parse_config(_merge(study.base, {"pack": changes})).pack


@dataclass(frozen=True)
class PackedSet:
    """A set that the study needs: its photographs, and how they are packed."""

    source: str
    recipe: PackRecipe


def packed_sets(study: Study, folder: str) -> dict[str, PackedSet]:
    """Return the sets that the study needs, by the folder of each."""
    judged_on = PackedSet(study.evaluation_source or study.source, evaluation_recipe(study))
    sets = [judged_on]
    for arm in study.arms.values():
        sets.append(PackedSet(study.source, parse_config(_merge(study.base, arm.switches)).pack))
    return {set_folder(folder, one.recipe): one for one in sets}


def set_folder(folder: str, recipe: PackRecipe) -> str:
    content = json.dumps(dataclasses.asdict(recipe), sort_keys=True)
    return join_url(folder, "sets", hashlib.sha256(content.encode()).hexdigest()[:12])


def _merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Sections are merged, at any depth; other values are replaced."""
    merged = copy.deepcopy(dict(base))
    for key, value in changes.items():
        inner = merged.get(key)
        if isinstance(value, Mapping) and isinstance(inner, Mapping):
            merged[key] = _merge(inner, value)
        else:
            merged[key] = copy.deepcopy(value)
    return merged

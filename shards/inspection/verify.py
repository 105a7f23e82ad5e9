"""Verify a packed set to the last byte: every file, archive, image, description and mask.

Nothing that is found stops the search: each finding is reported with its place, and what follows it
is still checked.
"""

from __future__ import annotations

import json
import math
import re
import tempfile
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from shards.cores import available_cores
from shards.format.finding import Finding, shown
from shards.format.index import index_name, sample_key
from shards.format.manifest import (
    MANIFEST_NAME,
    Manifest,
    ShardEntry,
    parse_manifest,
    read_manifest,
)
from shards.format.recipe import PackRecipe, recipe_errors
from shards.inspection.shard_check import ShardResult, check_shard
from shards.storage.files import (
    download_file,
    is_local,
    join_url,
    list_names,
    local_path,
    read_bytes,
)

Progress = Callable[[ShardResult, int, int], None]  # the shard, shards done, shards in all

_SHARD_LIKE = re.compile(r".*\.(tar|idx)(\..*)?", re.DOTALL)  # whole, or left by a killed process
_DEFAULTS = PackRecipe()
_KINDS = {int: "a whole number", float: "a number", str: "a text"}
_SHA256 = re.compile(r"[0-9a-f]{64}")


def verify_set(
    url: str, split: str = "", threads: int = 0, progress: Progress | None = None
) -> Iterator[Finding]:
    """Every finding of a set, in an order that does not depend on `threads` (0: all cores).

    An empty `split` means all of them. Remote shards are fetched into a temporary folder, at most
    one per thread at a time. Raises FileNotFoundError where no set is, ValueError for a split that
    the set does not have. `progress` is called for each shard, in order, before its findings come.
    """
    manifest, findings = _read_manifest(url)
    yield from findings
    if manifest is None:
        return
    if split and split not in manifest.splits:
        known = ", ".join(manifest.splits)
        raise ValueError(f"{url} has no split {split!r}; it has {known}")
    names = set(list_names(url))
    yield from _listing_findings(manifest, names)
    chosen = [
        (name, entry)
        for name, entries in manifest.splits.items()
        for entry in entries
        if split in ("", name) and _plain_name(name, entry, bool(manifest.plan_sha256))
    ]
    seen: list[tuple[ShardEntry, np.ndarray]] = []
    for result in _results(url, manifest, chosen, names, threads or available_cores()):
        seen.append((result.entry, result.keys))
        if progress is not None:
            progress(result, len(seen), len(chosen))
        yield from result.findings
    yield from _repeated_keys(seen)


def damaged_shards(url: str, threads: int = 0) -> set[str]:
    """Return the names of the shards that are missing or have a finding, or whose index has."""
    damaged: set[str] = set()

    def collect(result: ShardResult, done: int, total: int) -> None:
        if result.findings:
            damaged.add(result.entry.name)

    for _ in verify_set(url, threads=threads, progress=collect):
        pass
    return damaged


def _read_manifest(url: str) -> tuple[Manifest | None, list[Finding]]:
    """Return the manifest, if there is one to hold the files against, and its own findings."""
    try:
        data = read_manifest(url)
        manifest, fingerprint = parse_manifest(data, MANIFEST_NAME)
        findings = _type_findings(manifest)
        if findings:
            return None, findings
        findings = [
            Finding(MANIFEST_NAME, "the recipe", "", f) for f in recipe_errors(manifest.recipe)
        ]
        stated, derived = json.loads(data), json.loads(manifest.to_json())
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        return None, [Finding(MANIFEST_NAME, "the manifest cannot be used", "", shown(str(error)))]
    if manifest.fingerprint != fingerprint:
        what = "the fingerprint is not that of the content"
        findings.append(Finding(MANIFEST_NAME, what, manifest.fingerprint, shown(fingerprint)))
    for field in sorted((stated.keys() | derived.keys()) - {"fingerprint"}):
        if stated.get(field) != derived.get(field):
            what = f"{shown(field)} is not what the rest of it says"
            values = shown(derived.get(field, "nothing")), shown(stated.get(field, "nothing"))
            findings.append(Finding(MANIFEST_NAME, what, *values))
    return manifest, findings


def _type_findings(manifest: Manifest) -> list[Finding]:
    """JSON may hold anything where a number or a name belongs."""
    recipe, found = manifest.recipe, list[tuple[str, Any, str]]()
    parts = ((recipe, _DEFAULTS), (recipe.masks, _DEFAULTS.masks))
    for part, defaults in (*parts, (recipe.masks.strokes, _DEFAULTS.masks.strokes)):
        for name, value in vars(part).items():
            default = getattr(defaults, name)
            if isinstance(default, (int, float, str)) and not _is_alike(value, default):
                found.append((name, value, _KINDS[type(default)]))
    numbers: list[tuple[str, Any]] = []
    names: list[tuple[str, Any]] = [("classes", name) for name in manifest.classes]
    for split, entries in manifest.splits.items():
        for number, entry in enumerate(entries):
            place = f"{split} shard {number}"
            numbers += [(f"{place} num_images", entry.num_images)]
            numbers += [(f"{place} size_bytes", entry.size_bytes)]
            names += [(f"{place} name", entry.name), (f"{place} sha256", entry.sha256)]
            names += [(f"{place} index_sha256", entry.index_sha256)]
    found += [(name, value, "a whole number") for name, value in numbers if type(value) is not int]
    found += [(name, value, "a text") for name, value in names if not isinstance(value, str)]
    return [
        Finding(
            f"{MANIFEST_NAME} {shown(name)}", "the value is of another kind", kind, shown(value)
        )
        for name, value, kind in found
    ]


def _is_alike(value: Any, default: object) -> bool:
    """Return whether a value of the recipe is of its default's kind."""
    if type(default) is float:
        return type(value) in (int, float) and math.isfinite(value)
    return type(value) is type(default)


def _listing_findings(manifest: Manifest, names: set[str]) -> Iterator[Finding]:
    """Yield what the manifest says of its files, and files of which it says nothing."""
    entries = [(split, entry) for split, listed in manifest.splits.items() for entry in listed]
    for split, entry in entries:
        place = f"{MANIFEST_NAME} {shown(entry.name)}"
        if not _plain_name(split, entry, bool(manifest.plan_sha256)):
            expected = f"{shown(split)}-000000.tar and so on"
            yield Finding(place, "the name is not that of a shard", expected, shown(entry.name))
        for digest in (entry.sha256, entry.index_sha256):
            if not _SHA256.fullmatch(digest):
                yield Finding(place, "this is no SHA-256", "64 hexadecimal digits", shown(digest))
    for name, count in Counter(entry.name for _, entry in entries).items():
        if count > 1:
            place = f"{MANIFEST_NAME} {shown(name)}"
            yield Finding(place, "the shard is listed repeatedly", "once", f"{count} times")
    if len(set(manifest.classes)) != len(manifest.classes):
        repeated = [name for name, count in Counter(manifest.classes).items() if count > 1]
        yield Finding(MANIFEST_NAME, "classes are listed repeatedly", "once", shown(repeated))
    listed = {entry.name for _, entry in entries}
    listed |= {index_name(name) for name in listed}
    if not manifest.plan_sha256:  # of others' shards some may hold no image that can be used
        listed |= {image.path.partition("/")[0] for image in manifest.refused}
    for name in sorted(names - listed):
        if _SHARD_LIKE.fullmatch(name):
            yield Finding(shown(name), "the manifest does not list this file")


def _plain_name(split: str, entry: ShardEntry, is_ours: bool) -> bool:
    """Return whether the name can only mean a file in the set's own folder."""
    if not is_ours:
        return re.fullmatch(r"[^./\\\0][^/\\\0]*\.tar", entry.name) is not None
    return re.fullmatch(r"\w+-\d{6,}\.tar", entry.name) is not None and entry.name.startswith(
        f"{split}-"
    )


def _results(
    url: str,
    manifest: Manifest,
    chosen: list[tuple[str, ShardEntry]],
    names: set[str],
    threads: int,
) -> Iterator[ShardResult]:
    """In the order of the manifest, whichever thread is first."""
    with (
        tempfile.TemporaryDirectory(prefix="glcic-verify-") as folder,
        ThreadPoolExecutor(threads, thread_name_prefix="verify") as pool,
    ):

        def check(position: int) -> ShardResult:
            split, entry = chosen[position]
            index = join_url(url, index_name(entry.name))
            with _download_on_demand(
                join_url(url, entry.name), Path(folder) / str(position)
            ) as fetch:
                return check_shard(
                    manifest,
                    split,
                    entry,
                    (lambda: read_bytes(index)) if index_name(entry.name) in names else None,
                    fetch if entry.name in names else None,
                )

        waiting: deque[Future[ShardResult]] = deque()
        try:
            for position in range(len(chosen)):
                waiting.append(pool.submit(check, position))
                if len(waiting) > 2 * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _download_on_demand(url: str, copy: Path) -> Iterator[Callable[[], Path]]:
    """Give the local path of a shard; a copy that had to be fetched is removed afterwards."""

    def fetch() -> Path:
        if is_local(url):
            return local_path(url)
        download_file(url, copy)
        return copy

    try:
        yield fetch
    finally:
        copy.unlink(missing_ok=True)


def _repeated_keys(seen: list[tuple[ShardEntry, np.ndarray]]) -> Iterator[Finding]:
    """Keys that more than one sample of the set has."""
    if not seen:
        return
    keys = np.concatenate([numbers for _, numbers in seen])
    shards = np.repeat(np.arange(len(seen)), [len(numbers) for _, numbers in seen])
    order = np.argsort(keys, kind="stable")
    repeats = np.flatnonzero(keys[order][1:] == keys[order][:-1])
    for position in repeats.tolist():
        first, second = (seen[shards[order[place]]][0].name for place in (position, position + 1))
        key = sample_key(int(keys[order[position]]))
        yield Finding(f"{second} {key}", "the key is not unique", "", f"also in {first}")

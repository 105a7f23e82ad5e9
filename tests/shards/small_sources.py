"""Small sources for the tests of planning: trees, archives, and the same in the memory's store."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

from PIL import Image

from shards.format.recipe import PackRecipe
from shards.sources.plan import PackPlan, plan_packing
from shards.storage.filesystems import open_filesystem

NO_VALIDATION = PackRecipe(validation_fraction=0)


def make_files(folder: Path, names: list[str]) -> Path:
    """Files with an image's extension are taken for images until they are decoded.

    Each holds its own name, so that it is seen which one was read.
    """
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(os.fsencode(name))
    return folder


def make_remote(url: str, names: list[str]) -> str:
    filesystem, path = open_filesystem(url)
    for name in names:  # past open_filesystem, which refuses names that look like patterns
        filesystem.pipe_file(f"{path}/{name}", name.encode())
    return url


def tar_bytes(names: list[str], form: int = tarfile.PAX_FORMAT, prefix: str = "") -> bytes:
    """An archive of files that hold their own names."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form, encoding="utf-8") as archive:
        for name in names:
            data = os.fsencode(prefix + name)
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def picture_bytes() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (10, 200, 30)).save(buffer, "PNG")
    return buffer.getvalue()


def planned(source: Path | str) -> PackPlan:
    """Without validation: everything in the order of "train"."""
    return plan_packing(str(source), NO_VALIDATION)


def names_of(plan: PackPlan, split: str = "train") -> list[str]:
    return sorted(image.name for image in plan.splits[split])


def classes_by_name(plan: PackPlan) -> dict[str, str]:
    return {image.name: image.class_name for images in plan.splits.values() for image in images}


def reasons_of(plan: PackPlan) -> dict[str, str]:
    return {image.path: image.reason for image in plan.ignored}

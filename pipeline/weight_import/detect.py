"""Which project a file of weights comes from, and its import."""

from __future__ import annotations

import hashlib
from pathlib import Path

from pipeline.weight_import.authors import AUTHORS, import_authors
from pipeline.weight_import.imported import Color, Imported
from pipeline.weight_import.mmagic import MMAGIC, import_mmagic, is_mmagic
from pipeline.weight_import.otenim import OTENIM, import_otenim, is_otenim
from pipeline.weight_import.pickled import PICKLE_START, ZIP_START, read_pickled_tensors

FORMATS = (AUTHORS, OTENIM, MMAGIC)
_TORCH7_STARTS = (b"\3\0\0\0", b"\4\0\0\0")  # a table, an object
_TORCH7_TEXT_STARTS = (b"3\n", b"4\n")


def import_file(
    path: Path,
    layout: str | None = None,
    *,
    mean: Color | None = None,
    channel_order: str | None = None,
) -> Imported:
    """`layout` is one of FORMATS; None: found by the file's content.

    `mean` (of the training set, what fills holes) belongs to authors and otenim, `channel_order`
    to mmagic. Raises ValueError for a file that is not of the layout, is damaged or holds more than
    data, FileNotFoundError where there is none.
    """
    if layout == AUTHORS or (layout is None and _is_torch7(path)):
        _refuse_option(channel_order, "--channel-order", AUTHORS)
        return import_authors(path, mean)
    tensors = read_pickled_tensors(path)
    if layout is None:
        layout = MMAGIC if is_mmagic(tensors) else OTENIM if is_otenim(tensors) else None
    if layout == MMAGIC:
        _refuse_option(mean, "--mean", MMAGIC)
        return import_mmagic(path, tensors, channel_order or "bgr")
    if layout == OTENIM:
        _refuse_option(channel_order, "--channel-order", OTENIM)
        return import_otenim(path, tensors, mean)
    names = ", ".join(list(tensors)[:3])
    raise ValueError(
        f"{path} holds tensors of neither otenim's nor mmagic's completion network ({names}, ...)"
    )


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_torch7(path: Path) -> bool:
    """False: a file of torch. Raises ValueError for what is neither."""
    with path.open("rb") as file:
        start = file.read(4)
    if start in _TORCH7_STARTS:
        return True
    if start.startswith((ZIP_START, PICKLE_START)):
        return False
    if start.startswith(_TORCH7_TEXT_STARTS):
        raise ValueError(f"{path} is a Torch7 file in text format; save it in binary format")
    raise ValueError(
        f"{path} is neither a Torch7 file in binary format nor a file of torch.save; known are the "
        f"formats of {', '.join(FORMATS)}"
    )


def _refuse_option(value: object, option: str, layout: str) -> None:
    if value is not None:
        raise ValueError(f"{option} changes nothing in the layout of {layout}")

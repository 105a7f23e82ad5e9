"""Lists of images: a CSV or Parquet file with the columns `path`, `class` and, optional, `split`.

Paths are relative to the list's folder, or absolute paths or URLs. Every row is meant as an image,
so that a path which cannot be used is an error here and not an ignored file.
"""

from __future__ import annotations

import csv
import importlib
import io
import posixpath
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from shards.sources.files import is_absolute, read_whole, store_root
from shards.sources.listing import SourceImage
from shards.storage.filesystems import is_local, open_filesystem

LIST_SUFFIXES = (".csv", ".parquet")
_COLUMNS = ("path", "class", "split")  # the last may be missing
_MAX_ERRORS = 10

_Row = tuple[int, Sequence[Any]]  # number as the user counts, values of the columns


def is_list(name: str) -> bool:
    return name.lower().endswith(LIST_SUFFIXES)


def read_list(
    location: str, folder: str, name: str, splits: tuple[str, ...]
) -> dict[str, list[SourceImage]]:
    """Return the images of each split; all of them under "" if the list has no column `split`.

    `name` is the list's name in `folder`. Raises ValueError with up to ten errors of the list,
    RuntimeError if what reads it is not installed.
    """
    open_rows = _parquet_rows if name.lower().endswith(".parquet") else _csv_rows
    try:
        data = read_whole(folder, name)
    except FileNotFoundError as error:
        raise ValueError(f"{location} does not exist; name a list of images") from error
    return _ListReader(location, splits).read(open_rows, data)


class _ListReader:
    def __init__(self, location: str, splits: tuple[str, ...]) -> None:
        self._location = location
        self._splits = splits
        self._errors: list[str] = []
        self._num_errors = 0
        self._names: set[str] = set()
        self._stores: dict[str, str] = {}  # root of absolute URLs -> why it cannot be reached

    def read(
        self, open_rows: Callable[[bytes], tuple[list[str], Iterator[_Row]]], data: bytes
    ) -> dict[str, list[SourceImage]]:
        images: dict[str, list[SourceImage]] = {}
        try:
            columns, rows = open_rows(data)
            self._require_columns(columns)
            for number, values in rows:
                self._take(images, number, values)
        except (ValueError, csv.Error) as error:
            if isinstance(error, _Unusable):
                raise
            raise _Unusable(f"{self._location} cannot be read as a list: {error}") from error
        if self._num_errors:
            raise _Unusable(self._join_errors())
        return images

    def _require_columns(self, columns: list[str]) -> None:
        counts = {name: columns.count(name) for name in _COLUMNS}
        if counts["path"] != 1 or counts["class"] != 1 or counts["split"] > 1:
            raise _Unusable(
                f"{self._location} has the columns {', '.join(columns) or 'of an empty file'}; "
                "it must have path and class, may have split, and each of them once"
            )

    def _take(self, images: dict[str, list[SourceImage]], number: int, row: Sequence[Any]) -> None:
        path, class_name, split = (_as_text(value) for value in row)
        class_name, split = class_name.strip(), split.strip()  # often a space follows the comma
        name = path if is_absolute(path) else posixpath.normpath(path)
        errors = [self._path_error(path, name)]
        if not class_name:
            errors.append("the class is empty; every image needs one")
        if row[2] is not None and split not in self._splits:
            errors.append(f"the split is {split!r}; it must be {' or '.join(self._splits)}")
        for error in filter(None, errors):
            self._report(number, error)
        self._names.add(name)
        key = "" if row[2] is None else sys.intern(split)
        images.setdefault(key, []).append(SourceImage(name, sys.intern(class_name)))

    def _path_error(self, path: str, name: str) -> str:
        if not path.strip() or "\0" in path or name == "." or path.endswith("/"):
            return f"the path is {path!r}; it must name a file"
        if name in self._names:
            return f"the path {path} is listed a second time; list every image once"
        if not is_absolute(path) and ".." in path.split("/"):
            return (
                f"the path {path} holds '..'; a relative path must stay in the list's folder, "
                "an absolute one may lie anywhere"
            )
        if is_local(path):
            return ""
        root = store_root(path)
        if root not in self._stores:
            self._stores[root] = _storage_error(root)
        return self._stores[root]

    def _report(self, number: int, error: str) -> None:
        self._num_errors += 1
        if len(self._errors) < _MAX_ERRORS:
            self._errors.append(f"row {number}: {error}")

    def _join_errors(self) -> str:
        more = self._num_errors - len(self._errors)
        last = [f"and {more:,} more"] if more else []
        return "\n  ".join([f"{self._location} cannot be packed:", *self._errors, *last])


class _Unusable(ValueError):
    """The message names the list already."""


def _as_text(value: Any) -> str:
    return "" if value is None else str(value)


def _storage_error(root: str) -> str:
    try:
        open_filesystem(root)
    except ValueError as error:
        return str(error)
    return ""


def _csv_rows(data: bytes) -> tuple[list[str], Iterator[_Row]]:
    """Rows are counted as in a spreadsheet: the header is row 1."""
    text = io.TextIOWrapper(io.BytesIO(data), encoding="utf-8-sig", newline="")
    rows = csv.reader(text, strict=True)
    header = [name.strip() for name in next(rows, [])]
    positions = [header.index(name) if name in header else None for name in _COLUMNS]

    def values() -> Iterator[_Row]:
        for number, row in enumerate(rows, start=2):
            if not row:
                continue
            if len(row) != len(header):
                expected = f"{len(header)}, as the header; quote what holds a comma"
                raise ValueError(f"row {number} has {len(row)} fields and not {expected}")
            yield number, [None if position is None else row[position] for position in positions]

    return header, values()


def _parquet_rows(data: bytes) -> tuple[list[str], Iterator[_Row]]:
    """Rows are counted from 1."""
    try:
        parquet: Any = importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise RuntimeError(
            f"a Parquet list cannot be read: {error}; pip install 'glcic-pipeline[parquet]'"
        ) from error
    table = parquet.ParquetFile(io.BytesIO(data))
    header = list(table.schema_arrow.names)
    present = [name for name in _COLUMNS if name in header]

    def values() -> Iterator[_Row]:
        number = 0
        for batch in table.iter_batches(columns=present):
            columns = {name: batch.column(name).to_pylist() for name in present}
            for row in zip(*columns.values(), strict=True):
                number += 1
                known = dict(zip(columns, row, strict=True))
                # A missing column is None; a missing value must not look like one.
                yield number, [_value(known, name) for name in _COLUMNS]

    return header, values()


def _value(row: dict[str, Any], name: str) -> Any:
    value = row.get(name)
    return "" if value is None and name in row else value

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from launch.samples import main
from shards.sources.free_photographs import (
    SHORT_SIDE,
    FreePhotograph,
    find_photographs,
    listed_photographs,
    read_photographs,
)
from shards.sources.sample_photographs import CREDITS_NAME

NOISE = np.random.default_rng(0).integers(0, 255, (900, 1400, 3), dtype=np.uint8)


def install(folder: Path, photograph: FreePhotograph, pixels: np.ndarray = NOISE) -> Path:
    path = folder / photograph.file
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def test_every_row_has_an_author_a_package_and_a_licence_that_allows_redistribution() -> None:
    allowed = re.compile(r"CC0-1\.0|CC-BY(-SA)?-[34]\.0|L?GPL-[23]\.0(-or-later)?|public domain")
    for photograph in listed_photographs():
        assert allowed.fullmatch(photograph.licence), photograph
        assert photograph.author, photograph
        assert photograph.package, photograph
        assert photograph.version, photograph


def test_no_photograph_is_listed_twice() -> None:
    rows = listed_photographs()
    assert len({photograph.name for photograph in rows}) == len(rows)
    assert len({(photograph.package, photograph.file) for photograph in rows}) == len(rows)


def test_the_split_is_of_the_name_alone_and_about_one_in_five_validates() -> None:
    splits = {photograph.name: photograph.split for photograph in listed_photographs()}
    share = list(splits.values()).count("val") / len(splits)
    assert 0.1 < share < 0.3
    other = FreePhotograph(next(iter(splits)), "another-package", "2", "x.png", "author", "CC0-1.0")
    assert other.split == splits[other.name]


def test_what_is_installed_is_found_in_any_of_the_folders(tmp_path: Path) -> None:
    first, second, third = listed_photographs()[:3]
    install(tmp_path / "a", first)
    install(tmp_path / "b", second)
    (tmp_path / "a" / "backgrounds" / "mine.jpg").write_bytes(b"not in the list")
    found = find_photographs([tmp_path / "a", tmp_path / "b"])
    assert list(found) == [first, second]
    assert third not in found


def test_folders_without_any_of_them_are_refused_with_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none of the listed photographs .* mate-backgrounds"):
        find_photographs([tmp_path])
    with pytest.raises(ValueError, match="nowhere: there is no such folder"):
        find_photographs([tmp_path / "nowhere"])


def test_large_photographs_are_reduced_and_small_ones_stay(tmp_path: Path) -> None:
    large, small = listed_photographs()[:2]
    found = {large: install(tmp_path, large), small: install(tmp_path, small, NOISE[:300, :420])}
    shapes = [pixels.shape for _, pixels in read_photographs(found, print)]
    assert shapes == [(SHORT_SIDE, 622, 3), (300, 420, 3)]


def test_a_file_that_cannot_be_read_is_named_and_the_others_are_cut(tmp_path: Path) -> None:
    broken, whole = listed_photographs()[:2]
    path = install(tmp_path, broken)
    path.write_bytes(path.read_bytes()[:500])
    said: list[str] = []
    found = {broken: path, whole: install(tmp_path, whole)}
    assert [one.name for one, _ in read_photographs(found, said.append)] == [whole.name]
    assert str(path) in said[0]


def test_the_command_writes_their_tiles_into_their_split_and_credits_them(tmp_path: Path) -> None:
    chosen = {split: next(p for p in listed_photographs() if p.split == split)
              for split in ("train", "val")}  # fmt: skip
    for photograph in chosen.values():
        install(tmp_path / "share", photograph)
    destination = tmp_path / "samples"
    assert main([str(destination), "--photographs", str(tmp_path / "share")]) == 0
    for split, photograph in chosen.items():
        assert list((destination / split / photograph.name).glob("*.png"))
        other = "val" if split == "train" else "train"
        assert not (destination / other / photograph.name).exists()
        assert photograph.author in (destination / CREDITS_NAME).read_text()
    assert main([str(destination)]) == 0, "an earlier set is replaced"
    assert not (destination / "val" / chosen["val"].name).exists()

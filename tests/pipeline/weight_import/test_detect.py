"""Which layout a file has, found by its content."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.weight_import.detect import import_file
from tests.pipeline.weight_import.layouts import (
    MEAN,
    AuthorsLayout,
    MmagicLayout,
    OtenimLayout,
    randomised,
)
from tests.pipeline.weight_import.torch7_writer import sequential, torch7_bytes, torch7_layers


def write_authors(path: Path) -> Path:
    network = AuthorsLayout()
    randomised(network)
    model = sequential(list(torch7_layers(network.layers)))
    path.write_bytes(torch7_bytes({"model": model, "mean": np.array(MEAN)}))
    return path


def write_otenim(path: Path) -> Path:
    torch.save(randomised(OtenimLayout()).state_dict(), path)
    return path


def write_mmagic(path: Path) -> Path:
    tensors = randomised(MmagicLayout()).state_dict()
    torch.save({"meta": {"iter": 3, "config": "text"}, "state_dict": tensors}, path)
    return path


def test_the_layout_is_found_by_what_the_file_holds(tmp_path: Path) -> None:
    path = tmp_path / "model"  # no suffix to go by
    assert import_file(write_authors(path)).layout == "authors"
    assert import_file(write_otenim(path), mean=MEAN).layout == "otenim"
    assert import_file(write_mmagic(path)).layout == "mmagic"


@pytest.mark.parametrize(
    ("start", "message"),
    [
        (b"", "neither a Torch7 file"),
        (b"\x89PNG\r\n", "neither a Torch7 file"),
        (b"4\n1\n3\nV 1\n13\nnn.Sequential\n", "text format"),
    ],
)
def test_a_file_of_no_known_format_is_refused(tmp_path: Path, start: bytes, message: str) -> None:
    path = tmp_path / "model"
    path.write_bytes(start)
    with pytest.raises(ValueError, match=message):
        import_file(path)


def test_tensors_of_another_network_are_refused(tmp_path: Path) -> None:
    torch.save({"backbone.weight": torch.zeros(3)}, tmp_path / "model.pth")
    with pytest.raises(ValueError, match=r"neither otenim's nor mmagic's.*backbone\.weight"):
        import_file(tmp_path / "model.pth")


@pytest.mark.parametrize("layout", ["authors", "otenim", "mmagic"])
def test_a_file_under_the_name_of_another_layout_is_refused(tmp_path: Path, layout: str) -> None:
    writers = {"authors": write_otenim, "otenim": write_mmagic, "mmagic": write_otenim}
    path = writers[layout](tmp_path / "model.pth")
    with pytest.raises(ValueError, match=r"model\.pth"):
        import_file(path, layout, mean=None if layout == "mmagic" else MEAN)


def test_options_of_another_layout_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"--mean changes nothing in the layout of mmagic"):
        import_file(write_mmagic(tmp_path / "a"), mean=MEAN)
    with pytest.raises(
        ValueError, match=r"--channel-order changes nothing in the layout of otenim"
    ):
        import_file(write_otenim(tmp_path / "a"), channel_order="rgb")
    with pytest.raises(
        ValueError, match=r"--channel-order changes nothing in the layout of authors"
    ):
        import_file(write_authors(tmp_path / "a"), channel_order="rgb")

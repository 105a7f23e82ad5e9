"""Pickled files of other projects: only tensors come out of them, and nothing is ever run."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.weight_import.pickled import read_pickled_tensors


class Harm:
    """Unpickled the usual way, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def save(path: Path, content: Any, **options: Any) -> Path:
    torch.save(content, path, **options)
    return path


TENSORS = {"conv1.weight": torch.arange(6.0).view(2, 3), "bn1.num_batches_tracked": torch.tensor(4)}


@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize("wrap", [dict, OrderedDict, lambda t: {"state_dict": t, "meta": {"e": 1}}])
def test_the_state_dict_is_found_in_either_format(tmp_path: Path, wrap: Any, is_zip: bool) -> None:
    path = save(tmp_path / "a.pth", wrap(TENSORS), _use_new_zipfile_serialization=is_zip)
    read = read_pickled_tensors(path)
    assert read.keys() == TENSORS.keys()
    assert all(torch.equal(read[name], TENSORS[name]) for name in TENSORS)


def test_parameters_under_the_prefix_of_data_parallel_are_read_plainly(tmp_path: Path) -> None:
    network = torch.nn.DataParallel(torch.nn.Linear(2, 3))
    read = read_pickled_tensors(save(tmp_path / "a.pth", dict(network.named_parameters())))
    assert read.keys() == {"weight", "bias"}
    assert not read["weight"].requires_grad


@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize("wrap", [lambda h: h, lambda h: {"state_dict": TENSORS, "meta": h}])
def test_a_file_that_asks_for_a_function_is_refused_and_the_function_not_called(
    tmp_path: Path, wrap: Any, is_zip: bool
) -> None:
    target = tmp_path / "harm"
    path = save(tmp_path / "a.pth", wrap(Harm(target)), _use_new_zipfile_serialization=is_zip)
    with pytest.raises(ValueError, match=r"nothing of it was run: .*asks for \w+\.mkdir"):
        read_pickled_tensors(path)
    assert not target.exists()


def test_a_bare_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    path, target = tmp_path / "a.pth", tmp_path / "harm"
    path.write_bytes(pickle.dumps(Harm(target), protocol=2))
    with pytest.raises(ValueError, match="nothing of it was run"):
        read_pickled_tensors(path)
    assert not target.exists()
    pickle.loads(path.read_bytes())
    assert target.exists(), "the file would have harmed"


def test_the_environment_cannot_switch_the_safe_reader_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    path = save(tmp_path / "a.pth", Harm(tmp_path / "harm"))
    with pytest.raises(ValueError, match="nothing of it was run"):
        read_pickled_tensors(path)
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.99])
def test_a_file_that_was_cut_is_refused(tmp_path: Path, share: float, is_zip: bool) -> None:
    path = save(tmp_path / "a.pth", TENSORS, _use_new_zipfile_serialization=is_zip)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ValueError, match="cut"):
        read_pickled_tensors(path)


@pytest.mark.parametrize(
    "content",
    [
        [torch.zeros(2)],
        {},
        torch.zeros(2),
        {"epoch": 3},
        {"w": torch.zeros(2).to_sparse()},
        {"w": torch.zeros(2, device="meta")},
    ],
)
def test_a_file_of_something_else_is_refused(tmp_path: Path, content: Any) -> None:
    path = save(tmp_path / "a.pth", content)
    with pytest.raises(ValueError, match=r"a\.pth"):
        read_pickled_tensors(path)


def test_a_shape_that_is_more_than_what_is_stored_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a.pth", {"w": torch.zeros(1).expand(1 << 40)})
    assert path.stat().st_size < 4096
    with pytest.raises(ValueError, match="more than is stored"):
        read_pickled_tensors(path)


def test_a_file_that_unpacks_to_more_than_it_is_is_refused(tmp_path: Path) -> None:
    stored = save(tmp_path / "a.pth", {"w": torch.zeros(1 << 20)})
    path = tmp_path / "b.pth"
    with zipfile.ZipFile(stored) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry))
    with pytest.raises(ValueError, match="would unpack to"):
        read_pickled_tensors(path)


def test_a_missing_file_is_told_as_such(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_pickled_tensors(tmp_path / "a.pth")

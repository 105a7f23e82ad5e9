import sys

import pytest

from benchmarks.harness.peer_process import PeerError, PeerProcess
from benchmarks.harness.photographs import pack_both_ways
from benchmarks.peers import choice, loaders, packers
from tests.shards.pictures import write_class_folders


@pytest.fixture
def only_torch_is_installed(monkeypatch):
    for library, distribution in choice.DISTRIBUTIONS.items():
        if distribution != "torch":
            monkeypatch.setitem(choice.DISTRIBUTIONS, library, f"no-such-{distribution}")


def test_reasons_hold_no_folder_of_the_machine():
    reason = "ImportError: /home/me/peers/lib/_C.so: undefined symbol\nsecond line"
    assert choice.without_paths(reason) == "ImportError: PATH: undefined symbol"
    assert choice.without_paths("0/32 images/s") == "0/32 images/s"


def test_without_an_interpreter_there_are_no_peers():
    assert loaders.prepare_loaders([], {}, 1.0, print).parameters() == {}
    assert packers.prepare_packers([], [], 32, print).parameters() == {}


def test_the_first_interpreter_for_which_it_works_is_taken(tmp_path):
    def attempt(process: PeerProcess) -> None:
        assert process.call("builtins:dict", {}) == {}

    broken = str(tmp_path / "python")
    chosen = choice.first_interpreter_with("torch_dataloader", [broken, sys.executable], attempt)
    assert chosen[0] == sys.executable
    with pytest.raises(PeerError, match="cannot be run"):
        choice.first_interpreter_with("torch_dataloader", [broken], attempt)


@pytest.mark.usefixtures("only_torch_is_installed")
def test_what_is_installed_is_checked_and_the_rest_listed_with_its_reason(tmp_path):
    source = write_class_folders(tmp_path / "source")
    shards, _ = pack_both_ways(source, tmp_path, crop_size=32, repeat=2)
    images = {"shards": shards, "split": "val", "crop_size": 32, "batch_size": 5}
    images["folder"] = str(tmp_path / "peers")
    peers = loaders.prepare_loaders([sys.executable], images, 0.01, lambda message: None)
    assert set(peers.versions) == {"torch"}
    assert len(peers.calls) == 4
    assert peers.calls.keys() | peers.not_measured.keys() == {c.name for c in loaders.CANDIDATES}
    assert peers.not_measured["DALI, 1 thread"] == "no-such-nvidia-dali-cuda120 is not installed"
    assert peers.levels == {}  # Pillow and simplejpeg decode alike
    with PeerProcess(sys.executable) as process:
        call = peers.calls["DataLoader of files, Pillow, 0 workers"]
        assert process.call(call.function, call.arguments) > 0


@pytest.mark.usefixtures("only_torch_is_installed")
def test_writers_that_are_not_installed_are_listed_too(tmp_path):
    paths = sorted(write_class_folders(tmp_path / "source").rglob("*.jpg"))
    packing = packers.prepare_packers([sys.executable], paths, 32, lambda message: None)
    writing = packers.prepare_writers([sys.executable], paths, 32, 10, lambda message: None)
    assert packing.calls == writing.calls == {}
    assert len(packing.not_measured) == 12
    assert "no-such-ffcv is not installed" in writing.not_measured.values()


def test_the_peers_get_no_photograph_that_would_have_to_be_enlarged(tmp_path):
    paths = sorted(write_class_folders(tmp_path / "source", size=(96, 72)).rglob("*.jpg"))
    small = sorted(write_class_folders(tmp_path / "small", size=(96, 20)).rglob("*.jpg"))
    assert packers.usable_paths(paths + small, 32) == [str(path) for path in paths]

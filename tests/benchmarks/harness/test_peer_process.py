import sys
import tempfile
import time
from pathlib import Path

import pytest

from benchmarks.harness.peer_process import PeerCall, PeerError, PeerProcess
from benchmarks.harness.rounds import measure_in_rounds

FAKE = "tests.benchmarks.peers.fake_peer"


def test_a_call_is_answered_whatever_the_peer_prints():
    with PeerProcess(sys.executable) as process:
        assert process.call(f"{FAKE}:doubled", {"number": 21}) == 42
        assert process.call(f"{FAKE}:doubled", {"number": 4}) == 8


def test_an_error_is_told_and_the_process_goes_on():
    with PeerProcess(sys.executable) as process:
        with pytest.raises(PeerError, match="ValueError: no such shard"):
            process.call(f"{FAKE}:fail", {})
        with pytest.raises(PeerError, match="ModuleNotFoundError"):
            process.call("no_such_library:rate", {})
        assert process.call(f"{FAKE}:doubled", {"number": 1}) == 2


def test_a_process_that_ends_leaves_its_last_words():
    with PeerProcess(sys.executable) as process, pytest.raises(PeerError, match="out of memory"):
        process.call(f"{FAKE}:end", {})


def test_a_peer_that_hangs_is_ended_with_its_children():
    start = time.monotonic()
    process = PeerProcess(sys.executable, answer_seconds=1.0)
    with process, pytest.raises(PeerError, match="the process ended"):
        process.call(f"{FAKE}:hang_with_a_child", {})
    assert time.monotonic() - start < 30


def test_what_a_peer_empties_lies_in_a_folder_of_its_own_that_goes_with_it():
    with PeerProcess(sys.executable) as process:
        scratch, cache = process.call(f"{FAKE}:temporary_folders", {})
        assert Path(scratch).is_dir()
        assert Path(scratch) != Path(tempfile.gettempdir())
        assert Path(cache).parent == Path(scratch)
    assert not Path(scratch).exists()


def test_an_interpreter_that_is_not_there_is_named(tmp_path):
    with pytest.raises(PeerError, match=r"none/python cannot be run \(No such file"):
        PeerProcess(str(tmp_path / "none" / "python"))


def test_a_peer_takes_part_in_the_rounds_in_one_process():
    call = PeerCall(sys.executable, f"{FAKE}:process_number")
    measured = measure_in_rounds({"ours": float, "peer": call}, rounds=2)
    assert measured["ours"] == [[0.0], [0.0]]
    first, second = measured["peer"]
    assert first == second

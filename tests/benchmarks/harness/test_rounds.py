import os
from functools import partial

import pytest

from benchmarks.harness.rounds import (
    figures_of,
    measure_in_rounds,
    of_median_worker,
    sum_over_workers,
)


def test_every_candidate_keeps_a_process_of_its_own():
    candidates = {"first": os.getpid, "second": os.getpid}
    messages = []
    measured = measure_in_rounds(candidates, rounds=3, progress=messages.append)
    assert [len(runs) for runs in measured.values()] == [3, 3]
    processes = {runs[0][0] for runs in measured.values()}
    assert len(processes) == 2
    assert os.getpid() not in processes
    assert all(runs == [runs[0]] * 3 for runs in measured.values())
    assert messages == ["warming up", "round 1 of 3", "round 2 of 3", "round 3 of 3"]


def test_ratios_are_of_one_round_each_and_not_of_the_medians():
    measured = {"ours": [10.0, 40.0, 30.0], "peer": [5.0, 10.0, 30.0]}
    ratio = figures_of("case", "images/s", measured, [("ours", "peer")])[-1]
    assert (ratio.name, ratio.unit, ratio.runs) == ("ours / peer", "ratio", [2.0, 4.0, 1.0])
    assert ratio.median == 2.0


def test_the_failure_of_a_candidate_is_raised():
    with pytest.raises(ValueError, match="invalid literal"):
        measure_in_rounds({"broken": partial(int, "x")}, rounds=1)


def test_a_round_of_several_workers_is_their_sum_or_their_median():
    measured = {"ours": [[10.0, 40.0, 30.0], [1.0, 2.0, 6.0]]}
    assert sum_over_workers(measured) == {"ours": [80.0, 9.0]}
    assert of_median_worker(measured) == {"ours": [30.0, 2.0]}

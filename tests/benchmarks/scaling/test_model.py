import dataclasses

import pytest

from benchmarks.scaling.gradient_messages import (
    Bucket,
    GradientAllReduce,
    NetworkGradients,
    StepWork,
)
from benchmarks.scaling.links import Link, LinkModel, Message, Topology
from benchmarks.scaling.model import ComputeTime, Crowding, ScalingModel, StepTime, fit_model
from pipeline.config.schedule import Phase

NETWORK = NetworkGradients(
    macs=1e9, buckets=(Bucket(4_000_000, 0.25), Bucket(1_000_000, 1.0)), statistics_bytes=1000
)
WORK = {
    Phase.COMPLETION: StepWork(3e9, (GradientAllReduce(NETWORK, 0.6),)),
    Phase.JOINT: StepWork(9e9, (GradientAllReduce(NETWORK, 0.2), GradientAllReduce(NETWORK, 0.3))),
}
REAL = ScalingModel(
    WORK,
    {Phase.COMPLETION: ComputeTime(0.004, 0.002), Phase.JOINT: ComputeTime(0.01, 0.005)},
    LinkModel(Link(50e-6, 1e9)),
    overlap=0.4,
    crowding={2: Crowding(1.5, 1.25)},
)
ALONE, TWO = Topology(1, 2), Topology(2, 2)


def steps_of(model, images=(4, 16), topologies=(ALONE, TWO)):
    return [
        StepTime(
            t,
            phase,
            n,
            averages_gradients,
            model.step_s(phase, n, t, averages_gradients=averages_gradients),
        )
        for t in topologies
        for phase in WORK
        for n in images
        for averages_gradients in ((True, False) if t.workers > 1 else (True,))
    ]


def messages_of(model, sizes=(1 << 10, 1 << 16, 1 << 24)):
    return [Message(TWO, n, model.link_model.all_reduce_s(n, TWO)) for n in sizes]


def worst_error(model, steps):
    return max(
        abs(
            model.step_s(s.phase, s.images, s.topology, averages_gradients=s.averages_gradients)
            / s.seconds
            - 1
        )
        for s in steps
    )


def test_the_fit_finds_the_model_that_the_points_came_from():
    found = fit_model(WORK, steps_of(REAL), messages_of(REAL))
    for phase, compute_time in REAL.compute_time.items():
        assert found.compute_time[phase].fixed_s == pytest.approx(compute_time.fixed_s)
        assert found.compute_time[phase].per_image_s == pytest.approx(compute_time.per_image_s)
    assert found.crowding[2].fixed == pytest.approx(1.5)
    assert found.crowding[2].per_image == pytest.approx(1.25)
    assert found.overlap == pytest.approx(REAL.overlap, abs=1e-6)
    assert worst_error(found, steps_of(REAL, images=(8,))) < 1e-6


def test_points_that_do_not_follow_the_model_leave_it_an_error():
    bent = [
        dataclasses.replace(step, seconds=step.seconds * (1.3 if step.images == 8 else 1))
        for step in steps_of(REAL, images=(4, 8, 16))
    ]
    found = fit_model(WORK, [s for s in bent if s.images != 8], messages_of(REAL))
    assert worst_error(found, [s for s in bent if s.images == 8]) == pytest.approx(0.3 / 1.3)


def test_what_is_sent_early_is_hidden_and_what_is_ready_last_is_waited_for():
    model = dataclasses.replace(REAL, link_model=LinkModel(Link(0.0, 1e9)))
    all_reduce = WORK[Phase.COMPLETION].all_reduces[0]
    # Of 100 ms the backward takes 60: 4 MB go in 4 ms from 15 ms on, 1 MB in 1 ms at its end.
    hidden_s, serial_s = model.all_reduce_wait_s(all_reduce, 0.1, TWO)
    assert hidden_s == pytest.approx(0.001)
    assert serial_s == pytest.approx(0.005)
    # Of one of 2 ms, the first still goes when the second is ready.
    hidden_s, _ = model.all_reduce_wait_s(all_reduce, 0.002, TWO)
    assert hidden_s == pytest.approx(0.25 * 0.0012 + 0.005 - 0.0012)


def test_compressed_gradients_take_half_the_time_of_a_link_without_latency():
    whole = dataclasses.replace(REAL, link_model=LinkModel(Link(0.0, 1e9)), overlap=0.0)
    half = dataclasses.replace(whole, gradient_scale=0.5)

    def all_reduce_wait_s(model):
        times = [model.step_s(Phase.JOINT, 8, TWO, averages_gradients=on) for on in (True, False)]
        return times[0] - times[1]

    assert all_reduce_wait_s(half) == pytest.approx(all_reduce_wait_s(whole) / 2)


def test_one_batch_alone_is_refused():
    with pytest.raises(ValueError, match="completion: steps of one worker with two batches"):
        fit_model(WORK, steps_of(REAL, images=(4,)), messages_of(REAL))

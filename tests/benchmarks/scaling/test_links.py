import math

import pytest

from benchmarks.scaling.links import Link, LinkModel, Message, Topology, fit_link_model


def test_a_ring_sends_every_part_of_the_message_round_twice():
    ring = LinkModel(Link(latency_s=1e-3, bytes_per_s=1e6))
    # Two workers: two messages of half; four: six messages of a quarter.
    assert ring.all_reduce_s(1e6, Topology(2, 2)) == pytest.approx(2 * (1e-3 + 0.5))
    assert ring.all_reduce_s(1e6, Topology(4, 8)) == pytest.approx(6 * (1e-3 + 0.25))
    assert ring.all_reduce_s(1e6, Topology(1, 8)) == 0


def test_between_nodes_a_ring_of_nodes_comes_on_top_of_the_ring_inside():
    fabric = LinkModel(Link(1e-6, 1e9), Link(1e-3, 1e8))
    inside = 2 * 3 * (1e-6 + 1e6 / 4 / 1e9)
    assert fabric.all_reduce_s(1e6, Topology(8, 4)) == pytest.approx(inside + 2 * (1e-3 + 5e-3))


def test_a_tree_needs_fewer_messages_among_many_nodes_and_is_taken_only_where_it_is_faster():
    slow_start = Link(latency_s=1e-3, bytes_per_s=1e9)
    ring, tree = LinkModel(slow_start, slow_start), LinkModel(slow_start, slow_start, has_tree=True)
    many, two = Topology(64, 1), Topology(2, 1)
    assert tree.all_reduce_s(1000, many) == pytest.approx(2 * (6 * 1e-3 + 1e-6))
    assert ring.all_reduce_s(1000, many) == pytest.approx(126 * 1e-3, rel=1e-3)
    assert tree.all_reduce_s(1e9, two) == ring.all_reduce_s(1e9, two)


def test_the_fit_finds_the_links_that_the_messages_came_from():
    real = LinkModel(Link(20e-6, 2e9), Link(150e-6, 1e8))
    topologies = [Topology(2, 4), Topology(4, 4), Topology(8, 4)]
    messages = [
        Message(topology, size, real.all_reduce_s(size, topology))
        for topology in topologies
        for size in (1 << 10, 1 << 16, 1 << 22, 1 << 26)
    ]
    found = fit_link_model(messages)
    assert found.inside.latency_s == pytest.approx(20e-6, rel=1e-6)
    assert found.inside.bytes_per_s == pytest.approx(2e9, rel=1e-6)
    assert found.between is not None
    assert found.between.latency_s == pytest.approx(150e-6, rel=1e-3)
    assert found.between.bytes_per_s == pytest.approx(1e8, rel=1e-3)


def test_workers_on_nodes_of_their_own_have_no_link_inside():
    real = LinkModel(Link(0.0, math.inf), Link(1e-4, 1e8))
    topology = Topology(2, 1)
    messages = [Message(topology, n, real.all_reduce_s(n, topology)) for n in (1024, 1 << 24)]
    found = fit_link_model(messages).between
    assert found is not None
    assert (found.latency_s, found.bytes_per_s) == pytest.approx((1e-4, 1e8))


def test_an_unknown_link_and_messages_of_one_size_are_refused():
    with pytest.raises(ValueError, match="link between nodes is not known"):
        LinkModel(Link(0, 1)).all_reduce_s(1, Topology(16, 8))
    with pytest.raises(ValueError, match="cannot be told apart"):
        fit_link_model([Message(Topology(2, 2), 1024, 0.1)] * 2)

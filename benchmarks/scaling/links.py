"""How long an all-reduce takes on links that have a latency and a bandwidth, and the links' fit.

Inside a node, a ring: its n ranks pass M bytes on in 2 (n - 1) messages of M / n each, so

    2 (n - 1) latency + 2 (n - 1) / n * M / bandwidth.

Between nodes the ranks of a node sum up among themselves, exchange with those of the other nodes
and spread the sum: the ring inside, and beside it a ring of the nodes, whose bandwidth is that of
all links of a node together; or a double binary tree, in logarithmically many messages, where the
library has one and it is faster (NCCL since 2.4).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls


@dataclass(frozen=True)
class Link:
    latency_s: float  # of one message
    bytes_per_s: float  # one way: what the measurers of all-reduce call bus bandwidth


@dataclass(frozen=True)
class Topology:
    workers: int
    per_node: int  # workers on each node; all nodes have as many

    @property
    def nodes(self) -> int:
        return -(-self.workers // self.per_node)

    @property
    def within(self) -> int:
        """Workers of a node, also where there is only one that is not full."""
        return min(self.workers, self.per_node)


@dataclass(frozen=True)
class LinkModel:
    inside: Link  # of one worker to another of its node
    between: Link | None = None  # of one node to another, all links of a node together
    has_tree: bool = False
    call_s: float = 0.0  # of every all-reduce, however many take part

    def all_reduce_s(self, num_bytes: float, topology: Topology) -> float:
        if topology.workers == 1:
            return 0.0
        total = self.call_s + _ring_s(self.inside, num_bytes, topology.within)
        if topology.nodes > 1:
            if self.between is None:
                raise ValueError(
                    f"{topology.workers} workers on {topology.nodes} nodes: the link between nodes "
                    "is not known"
                )
            ways = [_ring_s(self.between, num_bytes, topology.nodes)]
            if self.has_tree:
                ways.append(_tree_s(self.between, num_bytes, topology.nodes))
            total += min(ways)
        return total


def _ring_s(link: Link, num_bytes: float, ranks: int) -> float:
    messages = 2 * (ranks - 1)
    return messages * (link.latency_s + num_bytes / ranks / link.bytes_per_s)


def _tree_s(link: Link, num_bytes: float, ranks: int) -> float:
    """Up one tree and down the other, each with half the bytes, at the same time."""
    return 2 * (math.ceil(math.log2(ranks)) * link.latency_s + num_bytes / link.bytes_per_s)


@dataclass(frozen=True)
class Message:
    """A measured all-reduce."""

    topology: Topology
    num_bytes: int
    seconds: float  # the median
    runs: tuple[float, ...] = ()  # in every round


def fit_link_model(messages: Sequence[Message]) -> LinkModel:
    """By least squares of the relative errors, inside a node first, then between nodes.

    Without a message inside a node all workers are taken to sit on nodes of their own. Raises
    ValueError where one message size alone was measured.
    """
    single = [one for one in messages if one.topology.nodes == 1]
    several = [one for one in messages if one.topology.nodes > 1]
    inside = Link(0.0, math.inf)
    if single:
        inside = _fit_link([(one.topology.workers, one.num_bytes, one.seconds) for one in single])
    if not several:
        return LinkModel(inside)
    rest = []
    for one in several:
        left = one.seconds - _ring_s(inside, one.num_bytes, one.topology.within)
        # Never nothing: what the slower link takes is more than the model of the faster one errs.
        rest.append((one.topology.nodes, one.num_bytes, max(left, 0.1 * one.seconds)))
    return LinkModel(inside, _fit_link(rest))


def _fit_link(points: Sequence[tuple[int, int, float]]) -> Link:
    """Of (ranks, bytes, seconds)."""
    if len({num_bytes for _, num_bytes, _ in points}) < 2:
        raise ValueError("latency and bandwidth cannot be told apart by messages of one size")
    rows = [[2 * (n - 1) / t, 2 * (n - 1) / n * num_bytes / t] for n, num_bytes, t in points]
    # Of very different sizes: scaled so that both columns count.
    matrix = np.array(rows)
    scale = np.linalg.norm(matrix, axis=0)
    solution, _ = nnls(matrix / scale, np.ones(len(rows)))
    latency_s, s_per_byte = (float(value) for value in solution / scale)
    return Link(latency_s, 1 / s_per_byte if s_per_byte else math.inf)

"""Several packed sets, read as one: each supplies its share of every batch.

A set's share is a fixed number of the batch's lanes, spread evenly over it, so that every worker
sees the mixture. Inside its lanes each set keeps its own order and its own epochs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from shards.format.manifest import load_manifest
from shards.format.recipe import MaskRecipe, PackRecipe
from shards.sampling.order import LaneOrder, SampleAddress


@dataclass(frozen=True)
class WeightedSet:
    """A packed set in a mixture; weights are relative to each other."""

    shards: str  # folder or URL
    weight: float = 1.0


class MixedAddress(NamedTuple):
    """Where a lane finds its sample: the set, and the place in it."""

    data_set: int
    address: SampleAddress


def share_lanes(batch_size: int, weights: Sequence[float]) -> list[int]:
    """Return the set that each lane of a batch reads, in the nearest whole numbers to the weights.

    Raises ValueError where a weight is not above 0, or a set would get no lane.
    """
    if any(not 0 < weight < float("inf") for weight in weights):
        raise ValueError(f"the weights of a mixture are {list(weights)}: must be above 0")
    largest = max(weights)  # divided by it first, no sum leaves the range of floats
    total = sum(weight / largest for weight in weights)
    exact = [batch_size * (weight / largest) / total for weight in weights]
    counts = [int(share) for share in exact]
    by_remainder = sorted(range(len(weights)), key=lambda k: (counts[k] - exact[k], k))
    for position in by_remainder[: batch_size - sum(counts)]:
        counts[position] += 1
    if min(counts) == 0:
        raise ValueError(
            f"a batch of {batch_size} samples has no place for a set of weight "
            f"{weights[counts.index(0)]} among {list(weights)}; raise the weight or the batch size"
        )
    # The k-th lane of a set stands where it would in a sequence of its lanes alone.
    places = [
        ((number + 0.5) / count, data_set)
        for data_set, count in enumerate(counts)
        for number in range(count)
    ]
    return [data_set for _, data_set in sorted(places)]


class MixedOrder:
    """Which sample of which set lane j supplies at step t."""

    def __init__(self, sets: Sequence[Sequence[int]], lanes: Sequence[int], seed: int) -> None:
        """`sets` counts the samples of each set's shards; `lanes` names each lane's set."""
        self._places: list[tuple[int, int]] = []  # of each lane: its set, and its lane there
        used = [0] * len(sets)
        for data_set in lanes:
            self._places.append((data_set, used[data_set]))
            used[data_set] += 1
        self.orders = [
            LaneOrder(shard_samples, count, seed)
            for shard_samples, count in zip(sets, used, strict=True)
        ]

    @property
    def steps_per_epoch(self) -> int:
        """Of the first set, by which a mixture counts."""
        return self.orders[0].steps_per_epoch

    def locate(self, step: int, lane: int) -> MixedAddress:
        data_set, own = self._places[lane]
        return MixedAddress(data_set, self.orders[data_set].locate(step, own))

    def shards_ahead(self, step: int, lanes: Sequence[int]) -> list[tuple[int, int]]:
        """(set, shard) of what each lane reads at `step` and next, in the order of need by set."""
        own: list[list[int]] = [[] for _ in self.orders]
        for lane in lanes:
            data_set, place = self._places[lane]
            own[data_set].append(place)
        return [
            (data_set, shard)
            for data_set, order in enumerate(self.orders)
            for shard in order.shards_ahead(step, own[data_set])
        ]


class Mixture:
    """The sets of a training run as their manifests describe them; mostly it is only one."""

    def __init__(self, sets: Sequence[WeightedSet], batch_size: int) -> None:
        """Raises FileNotFoundError and ValueError for sets that are missing or do not mix."""
        self.sets = tuple(sets)
        self.manifests = [load_manifest(one.shards) for one in self.sets]
        self.lanes = share_lanes(batch_size, [one.weight for one in self.sets])
        self._require_alike()
        names: dict[str, int] = {}
        self.labels = [  # of each set's classes among all classes
            [names.setdefault(name, len(names)) for name in manifest.classes]
            for manifest in self.manifests
        ]
        self.classes = list(names)

    @property
    def recipe(self) -> PackRecipe:
        """Of the first set; the others have the same crops."""
        return self.manifests[0].recipe

    @property
    def masks(self) -> list[MaskRecipe]:
        """Of each set: the recipe of its packed masks."""
        return [manifest.recipe.masks for manifest in self.manifests]

    @property
    def mean_color(self) -> tuple[float, float, float]:
        """RGB in [0, 1] of a batch's stored pixels: each set counts by its lanes."""
        shares = [self.lanes.count(k) / len(self.lanes) for k in range(len(self.sets))]
        red, green, blue = (
            sum(
                share * manifest.mean_color[channel]
                for share, manifest in zip(shares, self.manifests, strict=True)
            )
            for channel in range(3)
        )
        return red, green, blue

    @property
    def fingerprint(self) -> str:
        """The identity of what is read: of one set its own."""
        fingerprints = [manifest.fingerprint for manifest in self.manifests]
        if len(fingerprints) == 1:
            return fingerprints[0]
        counts = [self.lanes.count(k) for k in range(len(self.sets))]
        return hashlib.sha256(repr((fingerprints, counts)).encode()).hexdigest()

    def num_samples(self, split: str) -> int:
        """Of the first set, by which epochs are counted and on which runs are evaluated."""
        return self.manifests[0].num_samples(split)

    def first_sample(self, data_set: int, split: str) -> int:
        """Return what the numbers of a set's samples are raised by, so that they are unique."""
        return sum(manifest.num_samples(split) for manifest in self.manifests[:data_set])

    def order(self, split: str, seed: int) -> MixedOrder:
        """ValueError where a set has fewer samples than lanes."""
        counts = []
        for manifest in self.manifests:
            masks = manifest.recipe.masks.masks_per_image
            counts.append([entry.num_images * masks for entry in manifest.splits[split]])
        return MixedOrder(counts, self.lanes, seed)

    def steps_per_epoch(self, split: str) -> int:
        return self.num_samples(split) // self.lanes.count(0)

    def _require_alike(self) -> None:
        ours = self.recipe.crop_size
        for one, manifest in zip(self.sets[1:], self.manifests[1:], strict=True):
            theirs = manifest.recipe.crop_size
            if ours != theirs:
                raise ValueError(
                    f"{one.shards} cannot be mixed with {self.sets[0].shards}: pack.crop_size is "
                    f"{theirs} there and {ours} here; pack them alike"
                )

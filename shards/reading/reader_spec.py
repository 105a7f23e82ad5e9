"""Describe what one worker reads, and how: all that its reader process gets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from shards.format.manifest import parse_masks
from shards.format.recipe import MaskRecipe
from shards.reading.fresh_holes import FreshHoles, WeightedMasks, fresh_mask_errors
from shards.reading.ring import BatchLayout
from shards.sampling.mixture import Mixture, WeightedSet
from shards.sampling.order import lanes_of


@dataclass(frozen=True)
class ReaderSpec:
    """What one worker reads, and how."""

    shards: str  # folder or URL of the packed set
    split: str
    batch_size: int  # of all workers together
    rank: int
    world_size: int
    seed: int
    short_side_min: int  # pixels: see CropRecipe
    short_side_max: int
    horizontal_flip: bool
    weight: float = 1.0  # of `shards` in a mixture
    mixture: tuple[WeightedSet, ...] = ()  # further sets
    decode_threads: int = 0  # 0: every core that this process may use
    prefetch_batches: int = 4  # slots of the ring
    cache: str = ""  # local folder for shards of a remote set; empty: one that the machine shares
    cache_limit_bytes: int = 0  # 0: what its disk allows
    check_crc: bool = True  # of every sample
    damaged: Literal["stop", "substitute"] = "stop"  # what happens to samples that cannot be read
    holes: Literal["packed", "fresh"] = "packed"  # fresh: drawn for each (seed, step, lane)
    fresh_masks: tuple[WeightedMasks, ...] = ()  # what is drawn; none: as each set was packed

    @classmethod
    def from_mapping(cls, values: dict[str, Any]) -> ReaderSpec:
        """Return the dataclass, the opposite of `dataclasses.asdict`, also after a journey through
        JSON.
        """
        mixture = tuple(WeightedSet(**one) for one in values["mixture"])
        fresh_masks = tuple(
            WeightedMasks(parse_masks(one["masks"]), one["weight"]) for one in values["fresh_masks"]
        )
        return cls(**{**values, "mixture": mixture, "fresh_masks": fresh_masks})

    @property
    def lanes(self) -> range:
        return lanes_of(self.batch_size, self.rank, self.world_size)

    def load(self) -> Mixture:
        """Read the manifests. Raises ValueError for what the sets cannot give, and
        FileNotFoundError where there is none, before anything is started."""
        sets = (WeightedSet(self.shards, self.weight), *self.mixture)
        mixture = Mixture(sets, self.batch_size)
        self._check(mixture)
        return mixture

    def layout(self, mixture: Mixture) -> BatchLayout:
        recipes = self._mask_recipes(mixture)
        return BatchLayout(
            len(self.lanes),
            mixture.recipe.crop_size,
            max(masks.holes_per_mask for masks in recipes),
            any(masks.kind == "strokes" for masks in recipes),
        )

    def draw_holes(self, mixture: Mixture) -> FreshHoles | None:
        """Return what draws the holes; None where they are packed."""
        if self.holes == "packed":
            return None
        return FreshHoles(
            self._mask_recipes(mixture),
            mixture.recipe.crop_size,
            self.seed,
            weights=[one.weight for one in self.fresh_masks],
            recipe_of_lane=mixture.lanes,
        )

    def _mask_recipes(self, mixture: Mixture) -> list[MaskRecipe]:
        """Return all recipes that masks of a batch may follow."""
        if self.holes == "fresh" and self.fresh_masks:
            return [one.masks for one in self.fresh_masks]
        return mixture.masks

    def _check(self, mixture: Mixture) -> None:
        crop_size = mixture.recipe.crop_size
        for one, manifest in zip(mixture.sets, mixture.manifests, strict=True):
            if self.split not in manifest.splits:
                known = ", ".join(manifest.splits)
                raise ValueError(f"{one.shards} has no split {self.split!r}; it has {known}")
        if not crop_size <= self.short_side_min <= self.short_side_max:
            raise ValueError(
                f"short_side_min and short_side_max are {self.short_side_min} and "
                f"{self.short_side_max}: must be at least the crop size of {self.shards} "
                f"({crop_size}) and in this order"
            )
        for name, minimum in (("decode_threads", 0), ("prefetch_batches", 2)):
            if getattr(self, name) < minimum:
                raise ValueError(f"{name} is {getattr(self, name)}: must be at least {minimum}")
        for error in fresh_mask_errors(self.fresh_masks, crop_size, "fresh_masks"):
            raise ValueError(error)
        lanes_of(self.batch_size, self.rank, self.world_size)
        mixture.order(self.split, self.seed)

"""What a packed set is made of: the frame, the encoding, the split and the masks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from shards.format.finding import shown

_EXTENSIONS = {"jpeg": "jpg", "png": "png", "webp": "webp", "raw": "npy"}


@dataclass(frozen=True)
class StrokeRecipe:
    """Free-form holes: random walks of a round brush, in pixels of the training crop."""

    strokes_min: int = 1  # of one hole
    strokes_max: int = 5
    segments_max: int = 5  # of one stroke; at least 1
    length_min: int = 10  # of one segment
    length_max: int = 100
    width_min: int = 10  # of the brush; drawn at the next lower odd number
    width_max: int = 40
    boxes_max: int = 0  # rectangles of the mask's range of sides beside the strokes of one hole:
    boxes_probability: float = 1.0  # 1 to boxes_max of them, and that often


@dataclass(frozen=True)
class MaskRecipe:
    """Random holes in the frame of the training crop, drawn once, when the set is packed."""

    kind: Literal["rectangles", "strokes"] = "rectangles"
    masks_per_image: int = 1  # each is one (image, mask) pair of the epoch
    holes_per_mask: int = 1  # their union is the mask
    side_min: int = 96  # of rectangles, pixels; the paper's range is 96 to 128
    side_max: int = 128
    area_min: float = 0.0  # share of the crop: of one rectangle, which replaces the range of
    area_max: float = 0.0  # sides, or of a whole mask of strokes; area_max 0: not asked for
    aspect_max: float = 1.0  # of a rectangle drawn by its area: the longer side over the shorter
    margin: int = 0  # pixels kept between a hole and the border; at 0 holes may touch it
    strokes: StrokeRecipe = field(default_factory=StrokeRecipe)


@dataclass(frozen=True)
class PackRecipe:
    """Everything that decides the bytes of the shards, besides the source itself."""

    crop_size: int = 256  # side of the training crop and of the validation images, pixels
    short_side: int = 384  # stored short side of training images, pixels; never enlarged
    encoding: Literal["jpeg", "png", "webp", "raw"] = "jpeg"  # webp: lossless; raw: .npy
    jpeg_quality: int = 95
    jpeg_subsampling: Literal["420", "444"] = "420"  # of the two colour differences
    images_per_shard: int = 1000
    # Ignored when the source has train/ and val/ folders; 1: a set to judge on, without training.
    validation_fraction: float = 0.05
    seed: int = 0
    masks: MaskRecipe = field(default_factory=MaskRecipe)

    @property
    def extension(self) -> str:
        """Of the image's member in a shard, without the dot."""
        return _EXTENSIONS[self.encoding]


def recipe_errors(recipe: PackRecipe, prefix: str = "pack") -> list[str]:
    """Return one sentence per error: the field, the value, what is allowed. Empty when
    all is well.
    """
    errors = []

    def require(holds: bool, field_name: str, value: object, allowed: str) -> None:
        if not holds:
            errors.append(f"{prefix}.{field_name} is {shown(value)}: {allowed}")

    size = recipe.crop_size
    require(
        16 <= size <= 8192 and size % 4 == 0,
        "crop_size",
        size,
        "must be a multiple of 4, at least 16 and at most 8192",
    )
    require(
        recipe.short_side >= size,
        "short_side",
        recipe.short_side,
        f"must be at least {prefix}.crop_size ({size})",
    )
    require(recipe.encoding in _EXTENSIONS, "encoding", recipe.encoding, ", ".join(_EXTENSIONS))
    require(50 <= recipe.jpeg_quality <= 100, "jpeg_quality", recipe.jpeg_quality, "50 to 100")
    chroma = recipe.jpeg_subsampling
    require(chroma in ("420", "444"), "jpeg_subsampling", chroma, "420 or 444")
    require(recipe.images_per_shard >= 1, "images_per_shard", recipe.images_per_shard, "at least 1")
    require(
        0 <= recipe.validation_fraction <= 1,
        "validation_fraction",
        recipe.validation_fraction,
        "at least 0 and at most 1",
    )
    require(recipe.seed >= 0, "seed", recipe.seed, "must not be negative")
    return errors + mask_errors(recipe.masks, size, f"{prefix}.masks", f"{prefix}.crop_size")


def mask_errors(
    masks: MaskRecipe, size: int, place: str = "pack.masks", crop_name: str = "pack.crop_size"
) -> list[str]:
    """Return one sentence per error of masks in crops of `size` pixels. `place` is where the masks
    stand, `crop_name` where the size of the crop does.
    """
    errors = []
    strokes = masks.strokes
    free = size - 2 * masks.margin  # side of the square that holes must stay in

    def require(holds: bool, field_name: str, value: object, allowed: str) -> None:
        if not holds:
            errors.append(f"{place}.{field_name} is {shown(value)}: {allowed}")

    require(masks.kind in ("rectangles", "strokes"), "kind", masks.kind, "rectangles, strokes")
    require(masks.masks_per_image >= 1, "masks_per_image", masks.masks_per_image, "at least 1")
    require(masks.holes_per_mask >= 1, "holes_per_mask", masks.holes_per_mask, "at least 1")
    require(
        masks.margin >= 0 and free >= 1,
        "margin",
        masks.margin,
        f"at least 0 and below half of {crop_name} ({size})",
    )
    if free < 1:
        return errors
    require(
        1 <= masks.aspect_max <= size,
        "aspect_max",
        masks.aspect_max,
        f"at least 1 and at most {crop_name} ({size})",
    )
    if masks.area_min or masks.area_max:
        largest = (free / size) ** 2
        require(
            0 <= masks.area_min <= masks.area_max <= largest and masks.area_max > 0,
            "area_min and area_max",
            f"{masks.area_min} and {masks.area_max}",
            f"0 <= area_min <= area_max <= {largest:.4g}, what {place}.margin leaves",
        )
    has_sides = masks.kind == "strokes" and strokes.boxes_max > 0
    if has_sides or (masks.kind == "rectangles" and not masks.area_max):
        require(
            1 <= masks.side_min <= masks.side_max <= free,
            "side_min and side_max",
            f"{masks.side_min} and {masks.side_max}",
            f"1 <= side_min <= side_max <= {free}, what {crop_name} and margin leave",
        )
    if masks.kind == "strokes":
        for name in ("strokes", "length", "width"):
            low, high = getattr(strokes, f"{name}_min"), getattr(strokes, f"{name}_max")
            values = f"{low} and {high}"
            field_names = f"strokes.{name}_min and {name}_max"
            require(1 <= low <= high <= 4 * size, field_names, values, "1 <= min <= max")
        require(
            1 <= strokes.segments_max <= 100,
            "strokes.segments_max",
            strokes.segments_max,
            "1 to 100",
        )
        boxes = strokes.boxes_max
        require(0 <= boxes <= 100, "strokes.boxes_max", boxes, "0 to 100")
        share = strokes.boxes_probability
        require(0 <= share <= 1, "strokes.boxes_probability", share, "0 to 1")
        require(
            strokes.width_max <= free,
            "strokes.width_max",
            strokes.width_max,
            f"at most {free}, what {crop_name} and margin leave",
        )
    return errors

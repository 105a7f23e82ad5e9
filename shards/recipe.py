"""What a packed set is made of: the frame, the encoding, the split and the masks."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class MaskRecipe:
    """Random rectangles in the frame of the training crop, drawn once, when the set is packed."""

    masks_per_image: int = 1  # each is one (image, mask) pair of the epoch
    holes_per_mask: int = 1  # their union is the mask
    side_min: int = 96  # pixels; the paper's range is 96 to 128
    side_max: int = 128


@dataclass(frozen=True)
class PackRecipe:
    """Everything that decides the bytes of the shards, besides the source itself."""

    crop_size: int = 256  # side of the training crop and of the validation images, pixels
    short_side: int = 384  # stored short side of training images, pixels; never enlarged
    jpeg_quality: int = 95
    images_per_shard: int = 1000
    validation_fraction: float = 0.05  # ignored when the source has train/ and val/ folders
    seed: int = 0
    masks: MaskRecipe = field(default_factory=MaskRecipe)


def recipe_faults(recipe: PackRecipe, prefix: str = "pack") -> list[str]:
    """One sentence per fault: the field, the value, what is allowed. Empty when all is well."""
    faults = []
    masks = recipe.masks

    def require(holds: bool, field_name: str, value: object, allowed: str) -> None:
        if not holds:
            faults.append(f"{prefix}.{field_name} is {value}: {allowed}")

    size = recipe.crop_size
    require(size >= 16 and size % 4 == 0, "crop_size", size, "must be a multiple of 4, at least 16")
    require(
        recipe.short_side >= size,
        "short_side",
        recipe.short_side,
        f"must be at least {prefix}.crop_size ({size})",
    )
    require(50 <= recipe.jpeg_quality <= 100, "jpeg_quality", recipe.jpeg_quality, "50 to 100")
    require(recipe.images_per_shard >= 1, "images_per_shard", recipe.images_per_shard, "at least 1")
    require(
        0 <= recipe.validation_fraction < 1,
        "validation_fraction",
        recipe.validation_fraction,
        "at least 0 and below 1",
    )
    require(recipe.seed >= 0, "seed", recipe.seed, "must not be negative")
    require(
        masks.masks_per_image >= 1, "masks.masks_per_image", masks.masks_per_image, "at least 1"
    )
    require(masks.holes_per_mask >= 1, "masks.holes_per_mask", masks.holes_per_mask, "at least 1")
    require(
        1 <= masks.side_min <= masks.side_max <= size,
        "masks.side_min and side_max",
        f"{masks.side_min} and {masks.side_max}",
        f"1 <= side_min <= side_max <= {prefix}.crop_size ({size})",
    )
    return faults

"""The manifest: one JSON file that describes a packed set and by which it is checked."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import Any

from shards.format.recipe import MaskRecipe, PackRecipe, StrokeRecipe
from shards.storage.files import join_url, read_bytes, size_bytes, write_bytes

MANIFEST_NAME = "manifest.json"
RECORDS = "pack-records"  # folder in which a pack that has not ended keeps what is done
SPLITS = ("train", "val")
FORMAT = "glcic-shards"
VERSION = 2
BYTES_MAX = 1 << 30  # of a manifest: ten million refused images take about as much


@dataclass(frozen=True)
class ShardEntry:
    name: str  # file name inside the set's folder
    num_images: int
    size_bytes: int
    sha256: str
    index_sha256: str


@dataclass(frozen=True)
class RefusedImage:
    path: str  # relative to the source folder
    reason: str


@dataclass(frozen=True)
class Manifest:
    """What was packed. `splits` maps "train" and "val" to their shards in order."""

    recipe: PackRecipe
    classes: list[str]
    # RGB in [0, 1], over the stored training pixels; of a set without them, over those it has
    mean_color: tuple[float, float, float]
    splits: dict[str, list[ShardEntry]]
    plan_sha256: str = ""  # of the recipe and the list of source images; empty: others' shards
    converted: dict[str, int] = field(default_factory=dict)  # kind of conversion -> images
    refused: list[RefusedImage] = field(default_factory=list)

    def num_images(self, split: str) -> int:
        return sum(shard.num_images for shard in self.splits[split])

    def num_samples(self, split: str) -> int:
        """(image, mask) pairs: what an epoch counts."""
        return self.num_images(split) * self.recipe.masks.masks_per_image

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the whole description, shard hashes included: the identity of the set."""
        return hashlib.sha256(self._content().encode()).hexdigest()

    def _content(self) -> str:
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))

    def to_json(self) -> str:
        content = {
            "format": FORMAT,
            "version": VERSION,
            "fingerprint": self.fingerprint,
            "num_images": {split: self.num_images(split) for split in self.splits},
            "num_samples": {split: self.num_samples(split) for split in self.splits},
            **asdict(self),
        }
        return json.dumps(content, indent=1) + "\n"


def save_manifest(url: str, manifest: Manifest) -> None:
    write_bytes(join_url(url, MANIFEST_NAME), manifest.to_json().encode())


def load_manifest(url: str) -> Manifest:
    """Raises FileNotFoundError where no set is, ValueError where the manifest is not ours."""
    path = join_url(url, MANIFEST_NAME)
    manifest, fingerprint = parse_manifest(read_manifest(url), path)
    try:
        is_unaltered = manifest.fingerprint == fingerprint
    except RecursionError as error:  # what may be parsed may still be too deep to be copied
        raise ValueError(f"{path} is nested too deeply; pack the set again") from error
    if not is_unaltered:
        raise ValueError(f"{path} was altered: its fingerprint does not match; pack the set again")
    return manifest


def read_manifest(url: str) -> bytes:
    """Raises FileNotFoundError where no set is, ValueError for more than BYTES_MAX."""
    path = join_url(url, MANIFEST_NAME)
    try:
        if (size := size_bytes(path) or 0) > BYTES_MAX:
            raise ValueError(
                f"{path} has {size} bytes, more than the {BYTES_MAX} that are read; pack the set "
                "again"
            )
        return read_bytes(path)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{url} holds no packed set: {MANIFEST_NAME} is missing; run `glcic pack SOURCE {url}`"
        ) from error


def parse_manifest(data: bytes, path: str) -> tuple[Manifest, str]:
    """The manifest and the fingerprint that it states. ValueError where it is not ours."""
    try:
        content: dict[str, Any] = json.loads(data)
        if content["format"] != FORMAT or content["version"] != VERSION:
            raise ValueError(f"format {content['format']} version {content['version']}")
        manifest = Manifest(
            recipe=parse_recipe(content["recipe"]),
            classes=list(content["classes"]),
            mean_color=tuple(content["mean_color"]),
            splits={
                split: [ShardEntry(**shard) for shard in entries]
                for split, entries in content["splits"].items()
            },
            plan_sha256=content["plan_sha256"],
            converted=dict(content["converted"]),
            refused=[RefusedImage(**image) for image in content["refused"]],
        )
        return manifest, content["fingerprint"]
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"{path} is not a manifest of {FORMAT} version {VERSION} ({error}); pack the set again"
        ) from error


def parse_recipe(mapping: dict[str, Any]) -> PackRecipe:
    """The recipe from its plain values. KeyError or TypeError where it is not one."""
    return PackRecipe(**{**mapping, "masks": parse_masks(mapping["masks"])})


def parse_masks(mapping: dict[str, Any]) -> MaskRecipe:
    """The recipe of masks from its plain values. KeyError or TypeError where it is not one."""
    return MaskRecipe(**{**mapping, "strokes": StrokeRecipe(**mapping["strokes"])})

"""Mend a damaged set from the source it was packed from: only what is damaged is packed again."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from shards.format.index import index_name
from shards.format.manifest import Manifest, ShardEntry, load_manifest
from shards.inspection.verify import damaged_shards
from shards.packing.pack_shard import ShardTask, pack_shard
from shards.packing.records import PlannedShard, planned_shards
from shards.packing.shard_writer import remove_all_parts
from shards.sources.plan import PackPlan, plan_packing
from shards.storage.files import join_url, upload_file, write_bytes

Log = Callable[[str], None]


@dataclass(frozen=True)
class Mended:
    names: list[str]  # of the shards that were packed again
    num_checked: int


def repack_damaged(
    source: str, url: str, names: list[str] | None = None, *, log: Log = print
) -> Mended:
    """Pack the damaged shards of `url` again from `source`, bit for bit as the manifest says.

    `names` are the shards to be packed again; None: those that verifying finds damaged. A shard is
    replaced only when its new bytes have the manifest's SHA-256. Raises ValueError where the source
    is not the one that was packed, or the bytes come out otherwise.
    """
    manifest = load_manifest(url)
    if not manifest.plan_sha256:
        raise ValueError(
            f"{url} was packed by others and only indexed here: copy its shards again from where "
            "they came from"
        )
    plan, shards = _plan_again(source, manifest, url)
    planned = {shard.name: shard for shard in shards}
    entries = {entry.name: entry for listed in manifest.splits.values() for entry in listed}
    for name in names or []:
        if name not in entries:
            raise ValueError(f"{url} has no shard {name}; it has {', '.join(sorted(entries)[:5])}")
    remove_all_parts(url)
    wanted = sorted(damaged_shards(url)) if names is None else list(dict.fromkeys(names))
    for name in wanted:
        log(f"packing {name} again")
        _mend(url, manifest, plan, planned[name], entries[name])
    return Mended(wanted, len(entries) if names is None else len(wanted))


def _plan_again(source: str, manifest: Manifest, url: str) -> tuple[PackPlan, list[PlannedShard]]:
    plan = plan_packing(source, manifest.recipe)
    if plan.sha256 != manifest.plan_sha256:
        raise ValueError(
            f"{source} is not what {url} was packed from: its files, classes or sizes differ; name "
            "the source as it was, or pack the set again"
        )
    counts = {split: len(images) for split, images in plan.splits.items()}
    return plan, planned_shards(counts, manifest.recipe.images_per_shard)


def _mend(
    url: str, manifest: Manifest, plan: PackPlan, shard: PlannedShard, entry: ShardEntry
) -> None:
    labels = {name: label for label, name in enumerate(manifest.classes)}
    images = plan.splits[shard.split][shard.start : shard.stop]
    with tempfile.TemporaryDirectory(prefix="glcic-repack-") as folder:
        task = ShardTask(
            plan.location, folder, manifest.recipe, manifest.plan_sha256, shard, images, labels
        )
        packed = pack_shard(task, lambda done: None).entry
        if packed != entry:
            found = packed.sha256[:12] if packed is not None else "no image"
            raise ValueError(
                f"{entry.name} comes out otherwise than it was packed (SHA-256 {found}..., the "
                f"manifest says {entry.sha256[:12]}...): the source's content or the versions of "
                "the decoders have changed since; it was not replaced, pack the set again"
            )
        _publish(Path(folder), url, entry.name)


def _publish(folder: Path, url: str, name: str) -> None:
    """The shard first: an index without its shard would be reported as an error."""
    upload_file(folder / name, join_url(url, name))
    index = index_name(name)
    write_bytes(join_url(url, index), (folder / index).read_bytes())

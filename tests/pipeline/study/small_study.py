"""A study so small that its arms train in seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.shards.pictures import write_class_folders
from tests.small_run import small_mapping


def small_study(tmp_path: Path, **changes: Any) -> dict[str, Any]:
    """As YAML would give it; its photographs lie in `tmp_path`."""
    source = tmp_path / "photographs"
    if not source.exists():
        write_class_folders(source, classes=3, images_per_class=8)
    base = small_mapping("", tmp_path, schedule={"completion": 2, "discriminator": 1, "joint": 2})
    for field in ("name", "folder"):
        del base[field]
    del base["data"]["shards"]
    base["pack"] |= {"images_per_shard": 6, "validation_fraction": 0.25}
    base["evaluation"] |= {"every_steps": 2, "weights": "raw"}
    base["train"] |= {"ema_decay": 0}
    return {
        "name": "small",
        "source": str(source),
        "seeds": [0, 1],
        "base": base,
        "arms": {
            "masked": {"label": "masked", "switches": {"loss": {"reconstruction": "masked"}}},
            "dam": {
                "label": "DAM, two masks",
                "switches": {
                    "completion": {"kind": "dam"},
                    "pack": {"masks": {"masks_per_image": 2}},
                },
            },
        },
        "evaluation_masks": {"side_min": 10, "side_max": 10},
        "sheet_images": 2,
        "figures": [
            {"title": "What is packed", "question": "How?", "arms": ["dam"], "preprocessing": True},
            {
                "title": "Loss or blocks",
                "question": "Which <helps>?",
                "arms": ["masked", "dam"],
                "rows": ["hole_mse", "running_statistics_hole_mse"],
                "curves": True,
                "sheet": "both",
            },
        ],
        **changes,
    }

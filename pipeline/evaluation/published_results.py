"""Metrics that others have published of GLCIC, to stand beside those measured here."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.evaluation.report import Metrics


@dataclass(frozen=True)
class PublishedResults:
    columns: dict[str, Metrics]
    statement: str  # where from, on what, and what differs


_MMAGIC = (
    "published by mmagic (configs/global_local/README.md), not measured here: {data}, one box of "
    "108 to 128 pixels at 256, no post-processing; the masks are random there, and the images "
    "random crops of 384 pixels scaled to 256; its SSIM leaves out the outermost 5 pixels, so it "
    "stands in that row alone"
)

PUBLISHED_RESULTS = {
    "mmagic-places": PublishedResults(
        {
            "mmagic GL (published)": {
                "hole_l1_percent": 11.164,
                "psnr_db": 23.152,
                "ssim_without_border": 0.862,
            },
        },
        _MMAGIC.format(data="Places365-val"),
    ),
    "mmagic-celeba": PublishedResults(
        {
            "mmagic GL (published)": {
                "hole_l1_percent": 6.678,
                "psnr_db": 26.780,
                "ssim_without_border": 0.904,
            },
        },
        _MMAGIC.format(data="CelebA-val"),
    ),
}

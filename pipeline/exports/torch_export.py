"""A completion network as a file of torch.export, which needs torch alone to run."""

from __future__ import annotations

import io
import json
from typing import Any

import torch

from pipeline.exports.tracing.comparison import ExportComparison, compare_export
from pipeline.exports.tracing.traced import TracedCompletion, quiet_exporters

DESCRIPTION = "network.json"  # among the archive's extra files


def exported_program_file(
    traced: TracedCompletion, description: dict[str, Any]
) -> tuple[bytes, ExportComparison]:
    """Return what torch.export.load reads. Raises RuntimeError where what it reads back does not
    give what the network gives.
    """
    file = io.BytesIO()
    with quiet_exporters():
        torch.export.save(
            traced.program(), file, extra_files={DESCRIPTION: json.dumps(description)}
        )
        data = file.getvalue()
        run = torch.export.load(io.BytesIO(data)).module()
    return data, compare_export(traced, run)

"""The error of a rank whose cause another rank has already reported."""

from __future__ import annotations


class ReportedElsewhere(RuntimeError):
    """Raised on the other ranks when rank 0 fails alone: they end without a message."""

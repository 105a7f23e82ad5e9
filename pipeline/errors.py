"""A fault that another rank has already told."""

from __future__ import annotations


class FaultElsewhere(RuntimeError):
    """Raised on the other ranks when rank 0 fails at what it does alone: they end, silently."""

"""Measure networks and baselines on validation samples."""

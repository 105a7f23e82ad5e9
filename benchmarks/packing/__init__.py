"""Measure how fast images are packed."""

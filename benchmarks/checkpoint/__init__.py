"""Measure how long checkpoints stop a training."""

"""Measure training steps and their parts."""

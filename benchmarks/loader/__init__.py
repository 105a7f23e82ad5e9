"""Measure how fast readers deliver batches."""

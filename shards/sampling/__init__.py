"""Decide which sample, crop and set a step takes: pure functions of seed and step."""

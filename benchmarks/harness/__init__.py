"""Run rounds of measurements and record their results."""

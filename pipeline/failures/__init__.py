"""Detect and handle what ends or blocks a run: signals, lost ranks, memory."""

"""Completion networks and discriminators."""

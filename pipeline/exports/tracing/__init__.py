"""Trace a network for export, and compare the export with it."""

"""Measure the completion network: images per second, layers, roofline."""

"""Measure the throughput of a cluster, and project it to more GPUs."""

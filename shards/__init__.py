"""The dataset: what a shard is, how it is written, ordered, read and verified.

Knows nothing of networks and imports no torch, so that packing and reading start in a moment.
"""

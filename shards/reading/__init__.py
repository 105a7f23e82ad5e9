"""Read batches from shards, in the order of the samples."""

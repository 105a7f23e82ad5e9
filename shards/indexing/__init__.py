"""Build the index and the manifest of shards that have none."""

"""Keep shards of remote sets on the local disk."""

"""A source of images becomes a packed set: shards, indexes, a manifest."""

"""Entry points: each parses, validates, builds and runs. Logic lives in `pipeline` and `shards`."""

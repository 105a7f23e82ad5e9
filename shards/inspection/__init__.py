"""Check a packed set, and show what it holds."""

"""Write and read checkpoints that are complete or ignored."""

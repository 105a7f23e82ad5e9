"""Process groups, and what the engines share: trainable networks, optimizers."""

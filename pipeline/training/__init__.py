"""Run the training: the loop, its state, resuming, warm start."""

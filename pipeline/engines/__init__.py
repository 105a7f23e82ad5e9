"""Train with DDP, Accelerate or DeepSpeed."""

"""Model the time of a step on more GPUs from measured parts."""

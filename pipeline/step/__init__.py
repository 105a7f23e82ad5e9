"""Compute one training step: batches on the device, losses, updates."""

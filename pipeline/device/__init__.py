"""Set up a device: threads, precision, compilation, memory."""

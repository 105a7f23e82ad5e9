"""Read and write bytes at a path or URL, with retries."""

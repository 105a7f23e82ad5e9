"""Fixed pairs of image and mask, read from files and written to files."""

"""Convert, resize, encode and decode images."""

"""Complete photographs with a trained network."""

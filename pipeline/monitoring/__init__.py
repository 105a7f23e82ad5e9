"""What Prometheus sees of a run: metrics, their export and their documentation."""

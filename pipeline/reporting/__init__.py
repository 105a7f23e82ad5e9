"""Write what a run reports: metrics, sample grids, curves."""

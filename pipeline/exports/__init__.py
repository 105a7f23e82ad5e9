"""Write networks in formats of other programs."""

"""Studies: a table of arms, each trained under several seeds, and the page that compares them."""

"""Build the documentation site: pages made from the code, and links that leave docs/."""

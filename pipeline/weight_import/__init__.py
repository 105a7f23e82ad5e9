"""Read weights of other implementations of GLCIC."""

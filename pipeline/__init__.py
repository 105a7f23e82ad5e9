"""The library: how a GLCIC network is trained, evaluated and used. Importing it has no effects."""

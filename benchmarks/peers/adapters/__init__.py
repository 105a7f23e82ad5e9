"""Loaders and packers of other projects behind one interface."""

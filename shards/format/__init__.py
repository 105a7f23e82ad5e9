"""Define the files of a packed set: recipe, manifest, index, tar."""

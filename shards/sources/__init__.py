"""Find the images to pack: folders, archives, lists, URLs."""

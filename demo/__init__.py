"""``make demo``: the main job on real input, from the first ADD to nothing left."""

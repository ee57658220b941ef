"""This computer: folders, safe writes, the cache, whose turn the cores are, events, registries."""

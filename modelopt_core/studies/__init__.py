"""Many settings: curves measured in the background, shipped curves, long work as jobs."""

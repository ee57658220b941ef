"""Score, size, MACs and latency of a model, and what changed from one to another."""

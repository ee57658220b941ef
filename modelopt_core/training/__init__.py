"""The one training loop, its checkpoints, training on a grid, linear heads, and how the zoo was trained."""

"""What can be done to models: a step is frozen data, a recipe is a list of steps."""

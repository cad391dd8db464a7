"""One real training step in which every number knows the numbers that made it."""

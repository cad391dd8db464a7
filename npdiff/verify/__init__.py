"""What answers "is the code right?": gradient checks, exact answers, comparisons, checks of settings."""

"""What answers "is the model good?": distances between samples and data, likelihoods, a classifier."""

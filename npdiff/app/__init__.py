"""What a person runs: the command, run directories, pictures."""

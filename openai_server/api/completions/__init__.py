"""`/v1/completions`: continues a prompt."""

"""`/v1/completions`: text that continues a prompt."""

"""`/v1/chat/completions`: answers conversations."""

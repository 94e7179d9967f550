"""`/v1/chat/completions`: answers to conversations."""

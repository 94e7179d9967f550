"""Chat: messages to a prompt."""

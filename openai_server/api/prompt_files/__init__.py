"""Files in conversations: each is replaced by its text before anything else reads the messages."""

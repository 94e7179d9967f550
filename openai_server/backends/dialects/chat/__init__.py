"""The dialect of models that take chats themselves: the tasks `chat` and `responses` of this project's contract."""

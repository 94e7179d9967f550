"""Grammars of clients: read, checked, and rewritten for the place where their text stands in an answer."""

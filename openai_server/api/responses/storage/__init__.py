"""Responses with state: their history, and how they are stored."""

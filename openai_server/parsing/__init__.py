"""Converts a model's text to events: content, reasoning, tool calls. PURE."""

"""Events from a model's text: content, reasoning, tool calls. PURE."""

"""Turns tokens into text: characters, stop strings, echo, log probabilities. PURE."""

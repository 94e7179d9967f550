"""Tokens to text: characters, stop strings, echo, log probabilities. PURE."""

"""Guides (JSON Schemas, regular expressions, grammars): compiled off the engine's thread, applied to each token."""

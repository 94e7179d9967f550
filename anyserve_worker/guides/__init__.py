"""Guides (JSON Schemas, regular expressions, grammars): compiled apart from the engine, applied to each token."""

"""Renders messages to a prompt, with the model's own chat template."""

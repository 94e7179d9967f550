"""Tool calls in a model's text: a module for each family of formats, whose docstring names the models that write them.

PURE. `formats.py` picks the format of a chat template: Qwen's is HERMES in `tagged.py`, Qwen3-Coder's is QWEN3_CODER in
`xml_calls.py`.
"""

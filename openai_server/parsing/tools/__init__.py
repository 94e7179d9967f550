"""Tool calls in a model's text. Each module handles a family of formats; its docstring names the models.

PURE. `formats.py` selects the format for a chat template: Qwen's is HERMES in `tagged.py`, Qwen3-Coder's is QWEN3_CODER
in `xml_calls.py`.
"""

"""Dialects that a file describes: the built-in ones in builtin/, and the operators' own. PURE."""

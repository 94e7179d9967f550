"""Dialects: the tensor names and conventions of each kind of backend, one folder per dialect."""

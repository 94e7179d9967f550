"""Requests, events, errors and frames, which both sides of a pipeline's process share. PURE.

Needs only Python's standard library, since a pipeline may run in an environment of its own.
"""

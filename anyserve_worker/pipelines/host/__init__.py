"""The process of one pipeline: reads requests from the worker, runs the pipeline, and writes its events.

Needs only Python's standard library, since a wrapper may run in an environment of its own.
"""

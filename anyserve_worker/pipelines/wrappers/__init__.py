"""Folders with a `pipeline_wrapper.py` in hayhooks' manner as pipelines.

Needs only Python's standard library, since a wrapper may run in an environment of its own.
"""

from anyserve_worker.pipelines.wrappers.wrapper_pipeline import load

__all__ = ["load"]

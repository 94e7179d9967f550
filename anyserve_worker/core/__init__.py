"""Data that every part of the worker shares: requests, guides, deltas, options and errors. PURE."""

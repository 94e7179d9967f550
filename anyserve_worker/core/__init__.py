"""What every part of the worker knows: requests, guides, deltas, options and errors, as data. PURE."""

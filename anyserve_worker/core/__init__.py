"""What every part of the worker knows: errors, options, deltas, a request's origin. PURE."""

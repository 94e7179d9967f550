"""What every part of the worker knows: errors, options, deltas, the origin of a request. PURE; imports nothing else of it."""

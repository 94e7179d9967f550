"""Which sequences and prompts the next step computes, and which of them own which KV cells. PURE."""

"""Which sequences and prompts the next step computes, and who owns which KV cells. PURE."""

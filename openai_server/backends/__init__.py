"""The servers behind the sidecar: which there are, what they serve, and calls to them."""

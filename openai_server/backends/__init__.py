"""The backends: their addresses, the models that they serve, and the calls to them."""

"""Code that the sidecar and the worker share. Imports neither of them."""

"""What the sidecar and the worker need alike. Imports neither of them."""

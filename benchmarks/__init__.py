"""Measurements, side by side with peers: `make bench`. README.md says what is measured and how."""

"""Benchmarks of the system and its peers: `make bench`. README.md explains what they measure and how."""

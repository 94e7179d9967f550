"""`/metrics`: metrics for Prometheus."""

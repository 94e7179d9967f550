"""What operators see of the sidecar: metrics, log lines, traces. One record a request (`record.py`) feeds all three."""

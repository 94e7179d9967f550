"""What operators see of the sidecar: metrics, log lines, traces. A request's context feeds all three."""

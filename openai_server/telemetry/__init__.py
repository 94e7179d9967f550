"""Metrics, access log lines and traces of the sidecar. All three come from the context of each request."""

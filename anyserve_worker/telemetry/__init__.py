"""Telemetry of the worker: metrics, log lines and traces, from the counters and times that the engine records."""

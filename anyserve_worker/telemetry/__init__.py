"""What operators see of the worker: metrics, log lines, traces. The engine counts and takes times; all else is here."""

"""Runs what is queued in the store, in any of the processes that share it. Each kind of job is defined in `api/`."""

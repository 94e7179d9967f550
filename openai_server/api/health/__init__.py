"""`/livez`, `/readyz` and `/health`: probes."""

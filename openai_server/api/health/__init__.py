"""`/livez`, `/readyz` and `/health`: probes of the server's state."""

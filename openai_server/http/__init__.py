"""HTTP: connections, framing, bodies, streaming, TLS, and the processes that listen."""

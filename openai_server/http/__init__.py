"""HTTP: connections, framing, routing, streaming, TLS, and the processes that listen."""

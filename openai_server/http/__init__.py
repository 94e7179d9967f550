"""HTTP: connections, framing, routing, streaming, TLS, and the serving processes."""

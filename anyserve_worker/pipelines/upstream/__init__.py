"""An upstream over HTTP: its settings, framing of its answers, its errors, and the only module that uses a client."""

"""Who may ask, how much, and how fast: API keys, limits, rates, CORS, TLS."""

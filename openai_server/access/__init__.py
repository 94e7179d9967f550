"""Access control: API keys, concurrency and rate limits, caps on one request, CORS."""

"""KServe's gRPC service: calls to requests, and what was generated to messages."""

"""KServe's gRPC service: converts calls to requests, and generated output to messages."""

"""The sidecar: OpenAI's and Anthropic's REST APIs in front of a KServe v2 gRPC text model server."""

__version__ = "0.1.0"

ENVIRONMENT_PREFIX = "OPENAI_SERVER_"
"""Prefix of the environment variables of the command line's options."""

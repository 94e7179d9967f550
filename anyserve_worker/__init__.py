"""The bundled worker: GGUF models on llama.cpp behind the KServe v2 gRPC protocol."""

__version__ = "0.1.0"

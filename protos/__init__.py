"""Everything that the sidecar and the worker must agree on, and nothing else: a leaf that imports protobuf and grpc."""

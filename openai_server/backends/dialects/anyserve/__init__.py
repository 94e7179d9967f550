"""This project's contract (protos/README.md): requests to tensors, tensors to answers. PURE."""

"""The engine: requests on the event loop, steps on the thread that owns the model."""

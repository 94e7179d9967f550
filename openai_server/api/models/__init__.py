"""`/v1/models`: the models that are served."""

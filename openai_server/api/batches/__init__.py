"""`/v1/batches`: files of requests that run when there is room for them."""

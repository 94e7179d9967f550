"""The registry entries of `/v1/batches`."""

from functools import partial

from openai_server.api.deferred import endpoint_in

_endpoint = partial(endpoint_in, "openai_server.api.batches")
_BATCH = "/batches/{batch_id}"

BATCHES = (
    _endpoint("POST", "/batches", "create_batch"),
    _endpoint("GET", "/batches", "list_batches"),
    _endpoint("GET", _BATCH, "get_batch"),
    _endpoint("POST", f"{_BATCH}/cancel", "cancel_batch"),
)

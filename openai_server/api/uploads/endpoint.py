"""The registry entries of `/v1/uploads`."""

from functools import partial

from openai_server.api.deferred import endpoint_in

_endpoint = partial(endpoint_in, "openai_server.api.uploads")
_UPLOAD = "/uploads/{upload_id}"

UPLOADS = (
    _endpoint("POST", "/uploads", "create_upload"),
    _endpoint("POST", f"{_UPLOAD}/parts", "add_part"),
    _endpoint("POST", f"{_UPLOAD}/complete", "complete_upload"),
    _endpoint("POST", f"{_UPLOAD}/cancel", "cancel_upload"),
)

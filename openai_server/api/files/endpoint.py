"""The registry entries of `/v1/files`."""

from functools import partial

from openai_server.api.deferred import endpoint_in

_endpoint = partial(endpoint_in, "openai_server.api.files")
_FILE = "/files/{file_id}"

FILES = (
    _endpoint("POST", "/files", "create_file"),
    _endpoint("GET", "/files", "list_files"),
    _endpoint("GET", _FILE, "get_file"),
    _endpoint("DELETE", _FILE, "delete_file"),
    _endpoint("GET", f"{_FILE}/content", "get_content"),
)

"""Turns settings into the target of requests."""

from collections.abc import Mapping

from anyserve_worker import __version__
from anyserve_worker.pipelines.core.pipeline import Folder
from anyserve_worker.pipelines.upstream.client import Target
from anyserve_worker.pipelines.upstream.settings import (
    UpstreamSettings,
    is_header_value,
    read_api_key,
    read_base_url,
    read_headers,
    secret_values,
)


def read_target(
    settings: UpstreamSettings,
    folder: Folder,
    environment: Mapping[str, str],
    *,
    key_header: str = "Authorization",
    key_prefix: str = "Bearer ",
) -> Target:
    """Raises ValueError, whose text has no secret."""
    key = read_api_key(settings, folder.path, environment)
    headers = read_headers(settings.headers, environment)
    if not is_header_value(settings.user_agent):
        raise ValueError("user_agent must be printable ASCII")
    return Target(
        read_base_url(settings.base_url, environment),
        key,
        key_header,
        key_prefix,
        headers,
        secret_values(settings.headers, headers),
        settings.timeouts,
        settings.retries,
        settings.max_retry_wait,
        settings.user_agent or f"anyserve/{__version__}",
    )

"""`--healthcheck`: checks whether a server that runs on this machine with the same options is ready."""

import http.client
import ssl

from anyserve_common import addresses
from openai_server.config import Config

TIMEOUT = 4.0
"""Seconds for the check at each address. A server that can't respond within this time counts as not ready."""


def is_ready(config: Config) -> bool:
    """Whether the server is ready at one of its addresses."""
    try:
        listening = addresses.resolve(config.host)
    except addresses.AddressError:
        return False
    return any(_is_ready_at(addresses.reached_at(address), config) for address in listening)


def _is_ready_at(host: str, config: Config) -> bool:
    connection: http.client.HTTPConnection
    if config.admin_port is not None:  # always without TLS
        connection = http.client.HTTPConnection(host, config.admin_port, timeout=TIMEOUT)
    elif config.tls_cert is None:
        connection = http.client.HTTPConnection(host, config.port, timeout=TIMEOUT)
    else:
        # Unverified, as the certificate is for the name that clients use, not for this address.
        unverified = ssl._create_unverified_context()
        connection = http.client.HTTPSConnection(host, config.port, timeout=TIMEOUT, context=unverified)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()

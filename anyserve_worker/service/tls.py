"""The server's TLS: its certificate, and the CAs of its clients. Changed files apply to new connections."""

import logging
from typing import Any

import grpc

from anyserve_common.file_watch import signature
from anyserve_common.pem_files import PEMFiles

log = logging.getLogger(__name__)


class TLSError(Exception):
    """The files of TLS can't be used; the message is one line."""


def credentials(files: PEMFiles) -> grpc.ServerCredentials:
    """Returns credentials that follow changes of the files. Raises TLSError.

    With CAs, clients must present a certificate. A later error is logged, and the former certificate stays in use.
    """
    current = signature(files.paths)
    configuration = _configuration(files)

    def reload() -> Any:
        """Called at each handshake, on a thread of gRPC. None means no change, which gRPC's type hints lack."""
        nonlocal current
        new = signature(files.paths)
        if new == current:
            return None
        try:
            new_configuration = _configuration(files)
        except TLSError as error:
            log.error("keeping the former certificate: %s", error)
            return None
        current = new
        log.info("reloaded %s", files.certificate)
        return new_configuration

    return grpc.dynamic_ssl_server_credentials(
        configuration, reload, require_client_authentication=files.ca is not None
    )


def probe_address(port: int) -> str:
    """Returns a local address without TLS, at which a worker that serves TLS on `port` reports its health only."""
    return f"unix-abstract:anyserve_worker.{port}"


def _configuration(files: PEMFiles) -> grpc.ServerCertificateConfiguration:
    """Checks and reads the files. Raises TLSError."""
    try:
        certificate, key, ca = files.read()
    except (OSError, ValueError) as error:
        raise TLSError(f"{files.certificate}, {files.key}: {error}") from error
    assert certificate is not None
    assert key is not None
    return grpc.ssl_server_certificate_configuration([(key, certificate)], root_certificates=ca)

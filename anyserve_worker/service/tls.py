"""The server's TLS: its certificate, and the CAs of its clients. Changed files apply to new connections."""

import logging
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from anyserve_common.file_watch import Version, version

log = logging.getLogger(__name__)


class TLSError(Exception):
    """The files of TLS can't be used; the message is one line."""


@dataclass(frozen=True, slots=True)
class TLS:
    """PEM files. With `client_ca`, clients must present a certificate signed by one of these authorities."""

    certificate: Path
    key: Path
    client_ca: Path | None = None

    def versions(self) -> tuple[Version, ...]:
        """Returns the versions of the files. Raises TLSError."""
        paths = [self.certificate, self.key, *([self.client_ca] if self.client_ca else [])]
        try:
            return tuple(map(version, paths))
        except OSError as error:
            raise TLSError(str(error)) from error

    def read(self) -> grpc.ServerCertificateConfiguration:
        """Checks and reads the files. Raises TLSError."""
        try:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(self.certificate, self.key, password=_no_password)
            if self.client_ca:
                context.load_verify_locations(self.client_ca)
            return grpc.ssl_server_certificate_configuration(
                [(self.key.read_bytes(), self.certificate.read_bytes())],
                root_certificates=self.client_ca.read_bytes() if self.client_ca else None,
            )
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            raise TLSError(f"{self.certificate}, {self.key}: {error}") from error


def credentials(tls: TLS) -> grpc.ServerCredentials:
    """Returns credentials that follow changes of the files. Raises TLSError.

    A later error is logged, and the former certificate stays in use.
    """
    current = tls.versions()
    configuration = tls.read()

    def reload() -> Any:
        """Called at each handshake, on a thread of gRPC. None means no change, which gRPC's type hints lack."""
        nonlocal current
        try:
            versions = tls.versions()
            if versions == current:
                return None
            new_configuration = tls.read()
        except TLSError as error:
            log.error("keeping the former certificate: %s", error)
            return None
        current = versions
        log.info("reloaded %s", tls.certificate)
        return new_configuration

    return grpc.dynamic_ssl_server_credentials(
        configuration, reload, require_client_authentication=tls.client_ca is not None
    )


def probe_address(port: int) -> str:
    """Returns a local address without TLS, at which a worker that serves TLS on `port` reports its health only."""
    return f"unix-abstract:anyserve_worker.{port}"


def _no_password() -> str:
    raise ValueError("the key is encrypted")

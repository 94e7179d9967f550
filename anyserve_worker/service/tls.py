"""The server's side of TLS: who we are, and whom we believe. Files that change are read again, connections live on."""

import logging
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from anyserve_common.file_watch import Version, version

log = logging.getLogger(__name__)


class TLSError(Exception):
    """The files are not what they should be; the message is one line."""


@dataclass(frozen=True, slots=True)
class TLS:
    """PEM files. With `client_ca`, clients must show a certificate that one of these authorities has signed."""

    certificate: Path
    key: Path
    client_ca: Path | None = None

    def versions(self) -> tuple[Version, ...]:
        """Those of the files. Raises TLSError."""
        paths = [self.certificate, self.key, *([self.client_ca] if self.client_ca else [])]
        try:
            return tuple(map(version, paths))
        except OSError as error:
            raise TLSError(str(error)) from error

    def read(self) -> grpc.ServerCertificateConfiguration:
        """Raises TLSError."""
        try:
            check = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            check.load_cert_chain(self.certificate, self.key, password=_no_password)
            if self.client_ca:
                check.load_verify_locations(self.client_ca)
            return grpc.ssl_server_certificate_configuration(
                [(self.key.read_bytes(), self.certificate.read_bytes())],
                root_certificates=self.client_ca.read_bytes() if self.client_ca else None,
            )
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            raise TLSError(f"{self.certificate}, {self.key}: {error}") from error


def credentials(tls: TLS) -> grpc.ServerCredentials:
    """Raises TLSError. Later it only logs, and goes on with what it has."""
    seen = tls.versions()
    first = tls.read()

    def newer() -> Any:
        """Asked at each handshake, in a thread of gRPC's. None: nothing is new, which its types do not know of."""
        nonlocal seen
        try:
            versions = tls.versions()
            if versions == seen:
                return None
            configuration = tls.read()
        except TLSError as error:
            log.error("the certificate stays the one that it was: %s", error)
            return None
        seen = versions
        log.info("%s was read again", tls.certificate)
        return configuration

    return grpc.dynamic_ssl_server_credentials(first, newer, require_client_authentication=tls.client_ca is not None)


def probe_address(port: int) -> str:
    """Where a worker that serves TLS on `port` tells its health, and nothing else, to this machine without TLS."""
    return f"unix-abstract:anyserve_worker.{port}"


def _no_password() -> str:
    raise ValueError("the key is encrypted")

"""PEM files for TLS: a certificate, its private key, and certificate authorities."""

import ssl
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class PEMFiles:
    """All methods raise OSError (ssl.SSLError is one), or ValueError for an encrypted key."""

    certificate: Path | None = None
    """With its chain. None: no certificate is presented."""
    key: Path | None = None
    """None: the key is in the certificate's file."""
    ca: Path | None = None
    """Authorities that sign the certificates of the other side."""

    @property
    def paths(self) -> list[Path]:
        return [path for path in (self.certificate, self.key, self.ca) if path is not None]

    def load_certificate(self, context: ssl.SSLContext) -> None:
        if self.certificate is not None:
            context.load_cert_chain(self.certificate, self.key, password=_no_password)

    def load_ca(self, context: ssl.SSLContext) -> None:
        if self.ca is not None:
            context.load_verify_locations(self.ca)

    def read(self) -> tuple[bytes | None, bytes | None, bytes | None]:
        """Returns the contents of certificate, key and CA, after a check: gRPC doesn't report unusable files."""
        paths = (self.certificate, self.key or self.certificate, self.ca)
        certificate, key, ca = (path.read_bytes() if path else None for path in paths)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.load_certificate(context)
        self.load_ca(context)
        return certificate, key, ca


def _no_password() -> str:
    """Called for an encrypted key. OpenSSL's own callback would prompt for a password on the terminal."""
    raise ValueError("the key is encrypted")

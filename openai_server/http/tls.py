"""TLS for HTTP: the certificate, whose files may change while we run.

A changed certificate (or CA of clients) makes a new context, to which each new connection is switched in its handshake;
those that are open keep theirs. If the files don't belong together, the context that there is stays.
"""

import ssl
from dataclasses import dataclass
from pathlib import Path

from anyserve_common.file_watch import follow, signature


@dataclass(frozen=True, slots=True)
class Files:
    certificate: Path
    """With the chain, PEM."""
    key: Path | None = None
    """None: it is in the certificate's file."""
    client_ca: Path | None = None
    """Who signs the certificates that clients have to show; None: they need none."""

    @property
    def paths(self) -> list[Path]:
        return [path for path in (self.certificate, self.key, self.client_ca) if path is not None]


class TLSError(Exception):
    """Names the file or the files."""


class TLS:
    """Raises TLSError. `context` is for the server."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self._seen = signature(files.paths)  # before they are read: a change in between is seen later
        self.context = _context(files)
        self._current = self.context
        self.context.sni_callback = self._switch

    async def watch(self) -> None:
        """Follows the files. Runs until cancelled."""
        await follow(self._files.paths, self._seen, self._read_again)

    def _read_again(self) -> None:
        self._current = _context(self._files)

    def _switch(self, connection: ssl.SSLObject, _: str | None, __: ssl.SSLContext) -> None:
        """In every handshake, whether the client names a host or not."""
        if connection.context is not self._current:
            connection.context = self._current


def _context(files: Files) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    where = f"{files.certificate}" if files.key is None else f"{files.certificate} and {files.key}"
    try:
        # Without a password OpenSSL would ask for one on the terminal.
        context.load_cert_chain(files.certificate, files.key, password=lambda: b"")
    except (OSError, ValueError) as error:
        raise TLSError(f"can't load the certificate and its key from {where}: {_reason(error)}") from None
    if files.client_ca is not None:
        try:
            context.load_verify_locations(files.client_ca)
        except (OSError, ValueError) as error:
            raise TLSError(f"can't load the CA of clients from {files.client_ca}: {_reason(error)}") from None
        context.verify_mode = ssl.CERT_REQUIRED
        # Who resumes a session is not asked for a certificate again, and its CA may be gone by now.
        context.options |= ssl.OP_NO_TICKET
        context.num_tickets = 0
    return context


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or "not PEM").replace("_", " ").lower()
    return (error.strerror if isinstance(error, OSError) else None) or str(error)

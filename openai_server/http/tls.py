"""TLS for HTTP. The files of the certificate may change while the server runs.

After a change of the certificate or the client CA, new connections switch to a new context in their handshake; open
connections keep the old one. If the new files don't match each other, the old context stays in use.
"""

import ssl

from anyserve_common.file_watch import follow, signature
from anyserve_common.pem_files import PEMFiles


class TLSError(Exception):
    """A file is missing or invalid. The message contains its path."""


class TLS:
    """Raises TLSError. `context` is the server's context."""

    def __init__(self, files: PEMFiles) -> None:
        self._files = files
        self._seen = signature(files.paths)  # before reading them, so that no later change is missed
        self.context = _context(files)
        self._current = self.context
        self.context.sni_callback = self._switch

    async def watch(self) -> None:
        """Reads the files again when they change. Runs until cancelled."""
        await follow(self._files.paths, self._seen, self._read_again)

    def _read_again(self) -> None:
        self._current = _context(self._files)

    def _switch(self, connection: ssl.SSLObject, _: str | None, __: ssl.SSLContext) -> None:
        """Called in every handshake, even if the client sends no server name."""
        if connection.context is not self._current:
            connection.context = self._current


def _context(files: PEMFiles) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    where = f"{files.certificate}" if files.key is None else f"{files.certificate} and {files.key}"
    try:
        files.load_certificate(context)
    except (OSError, ValueError) as error:
        raise TLSError(f"can't load the certificate and its key from {where}: {_reason(error)}") from None
    if files.ca is not None:
        try:
            files.load_ca(context)
        except (OSError, ValueError) as error:
            raise TLSError(f"can't load the client CA from {files.ca}: {_reason(error)}") from None
        context.verify_mode = ssl.CERT_REQUIRED
        # Without session tickets: a resumed session would skip the check of the client's certificate.
        context.options |= ssl.OP_NO_TICKET
        context.num_tickets = 0
    return context


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or "not PEM").replace("_", " ").lower()
    return (error.strerror if isinstance(error, OSError) else None) or str(error)

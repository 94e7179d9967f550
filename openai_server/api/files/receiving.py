"""Receives a form with a file into the store. Nothing of the file stays in memory."""

from collections.abc import AsyncIterator, Callable, Collection, Mapping

from openai_server.api.bodies.pieces import pieces
from openai_server.api.bodies.receiving import announced_bytes
from openai_server.api.files.form import OVERHEAD_BYTES, Form
from openai_server.core.file_errors import FileTooLarge
from openai_server.core.request_context import RequestContext
from openai_server.store.file_records import Part
from openai_server.store.file_store import FileStore


class FileBody:
    """The body of a request: a form with the file in the field `file`, and with `fields`."""

    def __init__(self, context: RequestContext, *, file: str, fields: Collection[str] = (), max_bytes: int) -> None:
        """Raises APIError for a request whose body needn't be received: its type or its length is wrong."""
        headers: dict[bytes, bytes] = dict(context.scope["headers"])
        self.form = Form(headers.get(b"content-type", b""), file=file, fields=fields)
        self._context, self._max_bytes = context, max_bytes
        self._too_large = FileTooLarge(max_bytes, file)
        n_bytes = announced_bytes(context)
        if n_bytes > max_bytes + OVERHEAD_BYTES:
            raise self._too_large
        self._n_expected = max(n_bytes - OVERHEAD_BYTES, 1)

    async def receive(self, files: FileStore, owner: str, check: Callable[[Mapping[str, str]], object] = dict) -> Part:
        """`check` gets the fields besides the file, and raises APIError if they are wrong: nothing is stored then.
        Raises APIError and ClientDisconnect."""
        return await files.receive(
            self._content(check), max_bytes=self._max_bytes, owner=owner, n_expected=self._n_expected
        )

    async def _content(self, check: Callable[[Mapping[str, str]], object]) -> AsyncIterator[bytes]:
        async for data in pieces(self._context, self._max_bytes + OVERHEAD_BYTES, self._too_large):
            if content := self.form.feed(data):
                yield content
        self.form.end()
        check(self.form.fields)

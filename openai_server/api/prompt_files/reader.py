"""Reads the files of conversations: from the store, from the request, or from a URL."""

import asyncio
import hashlib
import logging
from collections import OrderedDict
from dataclasses import dataclass
from sys import getsizeof
from typing import TYPE_CHECKING, TypeVar

from msgspec.structs import replace

from openai_server.api.documents import document
from openai_server.api.prompt_files.cache import FileKey, FileText, TextCache
from openai_server.api.prompt_files.counting import tokens_of
from openai_server.api.prompt_files.data import bytes_of
from openai_server.api.prompt_files.settings import PromptFileSettings
from openai_server.api.prompt_files.step import has_files
from openai_server.api.services import Services
from openai_server.core.errors import InvalidRequest, UnsupportedParameter
from openai_server.core.file_errors import FileNotFound
from openai_server.core.messages import FilePart, Message, NamedFile, RefusalPart, TextPart
from openai_server.core.prompt_file_errors import FileTextTooLong, FileUnreadable, FileUrlRefused, TooManyFiles
from openai_server.core.request_context import RequestContext
from openai_server.core.store_errors import StoreAway
from openai_server.core.turn import Turn
from openai_server.extraction.errors import MissingPackage, Unreadable
from openai_server.extraction.extractor import Extractor
from openai_server.fetching.errors import NotFetched
from openai_server.fetching.urls import parsed_prefix

if TYPE_CHECKING:
    from openai_server.fetching.fetcher import Fetcher
    from openai_server.store.file_records import StoredFile
    from openai_server.store.file_store import FileStore

log = logging.getLogger(__name__)
T = TypeVar("T", bound=Turn)
AnyPart = TextPart | RefusalPart | FilePart

MAX_FILES = 64
"""Files in one conversation."""
MAX_FILE_BYTES = 32 << 20
"""Bytes of a file whose text is read."""
MAX_TEXT = 16 << 20
"""Characters of all files of one conversation."""
CACHED_CHARACTERS = 16 << 20
"""Characters of the texts that are kept for the next turn of a conversation."""
FETCHED_SECONDS = 300.0
"""Time for which a URL isn't fetched again, so that all turns of a conversation read the same."""
MAX_FETCHED = 1024
"""URLs that are remembered for that."""
MAX_EXTENSION = 32
"""Characters of the end of a name in the key of a text."""
INLINE_CHARACTERS = 64 << 10
"""Base64 of at most this length is decoded on the event loop, in a tenth of a millisecond."""


@dataclass(slots=True)
class _Content:
    """A file to read. Its bytes are loaded only if its text isn't known."""

    key: FileKey
    name: str | None
    stored: "StoredFile | None" = None
    data: bytes = b""


@dataclass(slots=True)
class _Fetched:
    """A URL's content, whose text is in the cache."""

    key: FileKey
    name: str | None
    until: float
    """The loop's time at which it is fetched again."""


class FileReader:
    """Callers take turns at reading. Texts that were read are kept for a while."""

    def __init__(
        self, services: Services, extractor: Extractor | None = None, fetcher: "Fetcher | None" = None
    ) -> None:
        self._services = services
        self._extractor = extractor or Extractor()
        self._cache = TextCache(CACHED_CHARACTERS)
        self._fetcher = fetcher or _fetcher(services.prompt_files)
        self._fetched: OrderedDict[tuple[str, str], _Fetched] = OrderedDict()
        """The latest URLs, by owner and URL."""

    async def read(self, turn: T, context: RequestContext) -> T:
        """The turn with the text of each file in its place. Raises APIError."""
        files = _FilesOfTurn(self, turn, context)
        messages = [await files.message(message, i) for i, message in enumerate(turn.messages)]
        return replace(turn, messages=messages, file_bytes=files.n_bytes)

    async def text(self, file: NamedFile, turn: Turn, context: RequestContext) -> tuple[str, str | None]:
        """The text and the name of a file. Raises APIError."""
        content = await self._found(file, context)
        if (found := self._cache.get(content.key)) is None:
            found = FileText(await self._extracted(content, file.field, context))
            self._cache.put(content.key, found)
        await self._check_tokens(found, content.name, file.field, turn, context)
        return found.text, content.name

    # ---- Sources

    async def _found(self, file: NamedFile, context: RequestContext) -> _Content:
        source, name = file.file, file.file.filename
        if file.url is not None:
            return await self._at_url(file.url, name, file.field, context)
        if source.file_id is not None:
            return await self._stored(source.file_id, name, file.field, context)
        assert source.file_data is not None
        if len(source.file_data) <= INLINE_CHARACTERS:
            data, digest = _decoded(source.file_data, file.field)
        else:
            work = self._services.threads.run(context.caller, _decoded, source.file_data, file.field)
            data, digest = await work
        context.access.hold(len(data))
        return _Content(FileKey(context.access.owner, digest, _extension(name)), name, data=data)

    async def _at_url(self, url: str, name: str | None, field: str, context: RequestContext) -> _Content:
        if self._fetcher is None:
            raise FileUrlRefused(field, "this server reads no files from URLs (its option --file-url); send the file")
        place, now = (context.access.owner, url), asyncio.get_running_loop().time()
        known = self._fetched.get(place)
        if known is not None and now < known.until and self._cache.get(known.key) is not None:
            return _Content(known.key, name or known.name)
        try:
            data, found = await self._fetcher.fetch(url, context.access.caller_id)
        except NotFetched as error:
            raise FileUrlRefused(field, error.reason) from None
        context.access.hold(len(data))
        digest = await self._services.threads.run(context.caller, _digest, data)
        key, name = FileKey(context.access.owner, digest, _extension(name or found.name)), name or found.name or None
        self._fetched[place] = _Fetched(key, name, now + FETCHED_SECONDS)
        self._fetched.move_to_end(place)
        if len(self._fetched) > MAX_FETCHED:
            self._fetched.popitem(last=False)
        return _Content(key, name, data=data)

    async def _stored(self, id: str, name: str | None, field: str, context: RequestContext) -> _Content:
        store, owner = self._services.store, context.access.owner
        if store is None or not store.files.has_blobs:
            reason = "this server keeps no files (its options --store and --blobs). Send the file itself"
            raise UnsupportedParameter(field, f"'{field}' is not supported: {reason}.")
        stored = await _of_owner(store.files, owner, id, field)
        name = name or stored.filename
        return _Content(FileKey(owner, id, _extension(stored.filename)), name, stored=stored)

    async def _data(self, content: _Content, field: str, context: RequestContext) -> bytes:
        if content.stored is None:
            return content.data
        if content.stored.n_bytes > MAX_FILE_BYTES:
            reason = f"has more than {MAX_FILE_BYTES} bytes, which is too much to read its text"
            raise FileUnreadable(field, content.name, reason)
        context.access.hold(content.stored.n_bytes)
        assert self._services.store is not None
        files = self._services.store.files
        try:
            return b"".join([piece async for piece in files.content(content.stored.parts)])
        except StoreAway:
            await _of_owner(files, context.access.owner, content.stored.id, field)  # it may have been deleted meanwhile
            raise

    # ---- Text

    async def _extracted(self, content: _Content, field: str, context: RequestContext) -> str:
        data = await self._data(content, field, context)
        name = content.stored.filename if content.stored is not None else content.name
        try:
            return await self._extractor.text(data, name or "", context.access.caller_id)
        except Unreadable as error:
            raise FileUnreadable(field, content.name, error.reason) from None
        except MissingPackage as error:
            log.error("a file can't be read without the package %s: install the extra `files`", error)
            reason = "is of a kind that this server isn't set up to read"
            raise FileUnreadable(field, content.name, reason) from None

    async def _check_tokens(
        self, text: FileText, name: str | None, field: str, turn: Turn, context: RequestContext
    ) -> None:
        """Raises FileTextTooLong."""
        limit, model = self._services.prompt_files.max_tokens, turn.model or ""
        if not limit or len(text.text) * _MAX_BYTES <= limit:  # a token has at least one byte
            return
        if (n_tokens := text.n_tokens.get(model)) is None:
            n_tokens = await tokens_of(text.text, turn.model, field, self._services, context)
            text.n_tokens[model] = n_tokens
        if n_tokens > limit:
            raise FileTextTooLong(field, name, n_tokens, limit)


async def _of_owner(files: "FileStore", owner: str, id: str, field: str) -> "StoredFile":
    """Raises FileNotFound with the field, and StoreAway."""
    try:
        return await files.get(owner, id)
    except FileNotFound:
        raise FileNotFound(id, field) from None


class _FilesOfTurn:
    """The files of one turn, as far as they have been read."""

    def __init__(self, reader: FileReader, turn: Turn, context: RequestContext) -> None:
        self._reader = reader
        self._turn = turn
        self._context = context
        self._n_files = self._n_characters = 0
        self.n_bytes = 0
        """Bytes of the texts that the request's body doesn't have."""

    async def message(self, message: Message, position: int) -> Message:
        """Raises APIError."""
        if not has_files((message,)):
            return message
        parts = [part for part in message.content or () if not isinstance(part, str)]
        texts = [await self._part(part, f"messages[{position}].content[{i}]") for i, part in enumerate(parts)]
        return replace(message, content=texts)

    async def _part(self, part: AnyPart, field: str) -> AnyPart:
        return TextPart(await self._text(_named(part, f"{field}.file"))) if isinstance(part, FilePart) else part

    async def _text(self, file: NamedFile) -> str:
        self._n_files += 1
        if self._n_files > MAX_FILES:
            raise TooManyFiles(file.field, MAX_FILES)
        text, name = await self._reader.text(file, self._turn, self._context)
        self._n_characters += len(text)
        self._context.access.hold(getsizeof(text))  # the messages have a copy of a text in the cache
        services = self._reader._services
        services.caps.check_length(file.field, self._n_characters)
        if self._n_characters > MAX_TEXT:
            reason = f"has more text than the conversation may have in files, {MAX_TEXT} characters"
            raise FileUnreadable(file.field, name, reason)
        if file.file.file_data is None:
            self.n_bytes += len(text)
        return document(text, file.title or name, file.context)


def _named(part: FilePart, field: str) -> NamedFile:
    """The file of a part. Raises InvalidRequest if it has not exactly one source."""
    if isinstance(part, NamedFile):
        return part
    source = part.file
    if (source.file_id is None) == (source.file_data is None):
        raise InvalidRequest(f"'{field}' must have exactly one of 'file_id' and 'file_data'.", param=field)
    return NamedFile(source, field=f"{field}.{'file_data' if source.file_id is None else 'file_id'}")


def _decoded(value: str, field: str) -> tuple[bytes, str]:
    """The bytes of base64 or a data URL, with their digest. Raises InvalidFileData."""
    data = bytes_of(value, field)
    return data, _digest(data)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _fetcher(settings: PromptFileSettings) -> "Fetcher | None":
    """None: files from URLs are refused."""
    if not settings.url_prefixes:
        return None
    from openai_server.fetching.fetcher import Fetcher  # few servers need it

    prefixes = [parsed_prefix(prefix) for prefix in settings.url_prefixes]
    return Fetcher(prefixes, max_bytes=MAX_FILE_BYTES, allows_private=settings.allows_private)


def _extension(name: str | None) -> str:
    """The end of the name; that of a longer one is no extension of any kind of file."""
    return (name or "").rpartition(".")[2][:MAX_EXTENSION].lower()


_MAX_BYTES = 4
"""Bytes of a character in UTF-8, at most."""

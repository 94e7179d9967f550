"""The local tokenizers of all models, used beside the event loop."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import orjson

from openai_server.core.errors import InvalidRequest
from openai_server.core.model_files import LOCAL_TOKENIZER, TokenizerFolder
from openai_server.core.tasks import TokenizeOptions
from openai_server.tokenizing.chunks import Spans
from protos import tensors
from protos.contract import REASON_CONTEXT_LENGTH
from protos.tensors import Packed

if TYPE_CHECKING:
    from openai_server.tokenizing.local import LocalTokenizer

MIN_LIMIT = 8192
"""Tokens. Minimum limit on a text whose tokens are returned, if the context is shorter, as in the bundled worker."""
MAX_LIMIT = 1 << 17
"""Tokens. Limit on such a text if the context is longer or unknown: the JSON of more, each with its piece, would hold
the event loop for too long."""
T = TypeVar("T")


class BadTokenizer(Exception):
    """A tokenizer that can't be loaded. The message names its file and the problem."""


class Threads(Protocol):
    """Threads for work that takes milliseconds, shared fairly between callers."""

    def run(self, caller: str, work: Callable[..., T], *args: Any) -> Awaitable[T]:
        """The result of `work` for this caller. Raises what `work` raises, and Overloaded."""


class Tokenizer:
    """The tokenizer of one model. Its methods raise InvalidRequest and Overloaded."""

    def __init__(self, local: "LocalTokenizer", threads: Threads) -> None:
        self._local = local
        self._threads = threads

    async def tokens(
        self, text: str, plain: Spans, options: TokenizeOptions, *, context_length: int | None, caller: str
    ) -> tuple[Sequence[int], Sequence[bytes]]:
        """The ids of a text's tokens, and the bytes of each. `plain` are spans without added tokens, in UTF-8 bytes.

        Raises InvalidRequest for a text with more tokens than the context, or than MIN_LIMIT if that is more.
        """
        field = options.names["text"]
        limit = MAX_LIMIT if context_length is None else min(max(context_length, MIN_LIMIT), MAX_LIMIT)

        def work() -> tuple[Sequence[int], Sequence[bytes]]:
            ids = self._ids(text, plain, options)
            if len(ids) > limit:
                message = f"'{field}' has {len(ids)} tokens; at most {limit} are allowed."
                raise InvalidRequest(message, param=field, code=REASON_CONTEXT_LENGTH)
            return ids, self._local.pieces(ids)

        return await self._run(caller, field, work)

    async def length(self, text: str, plain: Spans, options: TokenizeOptions, *, caller: str) -> tuple[int, bytes]:
        """The number of tokens, and the bytes of the first one."""

        def work() -> tuple[int, bytes]:
            ids = self._ids(text, plain, options)
            return len(ids), b"".join(self._local.pieces(ids[:1]))

        return await self._run(caller, options.names["text"], work)

    async def text(self, ids: Sequence[int] | Packed, *, caller: str) -> str:
        def work() -> str:
            unpacked = tensors.unpacked("INT32", ids) if isinstance(ids, Packed) else ids
            return self._local.text(unpacked)

        return await self._run(caller, "tokens", work)

    def _ids(self, text: str, plain: Spans, options: TokenizeOptions) -> list[int]:
        parse_special = options.parse_special is not False
        return self._local.tokens(text, plain, add_special=options.add_special, parse_special=parse_special)

    async def _run(self, caller: str, param: str, work: Callable[[], T]) -> T:
        from openai_server.tokenizing.local import BadText  # imported already, since there is a tokenizer

        try:
            return await self._threads.run(caller, work)
        except BadText as error:
            raise InvalidRequest(str(error), param=param) from error


class Tokenizers:
    """By the name in `--tokenizer`."""

    def __init__(self, folders: Mapping[str, TokenizerFolder], threads: Threads) -> None:
        """Loads the vocabularies, which takes half a second for 128,000 tokens. Raises BadTokenizer."""
        self._locals = {name: _loaded(folder) for name, folder in folders.items() if folder.vocabulary is not None}
        self._tokenizers = {name: Tokenizer(local, threads) for name, local in self._locals.items()}

    def get(self, parameters: Mapping[str, str]) -> Tokenizer | None:
        """The tokenizer of the model with these parameters; None if it has no local one."""
        return self._tokenizers.get(parameters.get(LOCAL_TOKENIZER, ""))

    def parameters(self, name: str) -> dict[str, str]:
        """The parameters that a model with this tokenizer has; empty if there is none."""
        if (local := self._locals.get(name)) is None:
            return {}
        return {
            LOCAL_TOKENIZER: name,
            "control_tokens": orjson.dumps(local.added.control).decode(),
            "user_defined_tokens": orjson.dumps(local.added.user_defined).decode(),
        }


def _loaded(folder: TokenizerFolder) -> "LocalTokenizer":
    try:
        from openai_server.tokenizing.local import LocalTokenizer  # an extra
    except ImportError as error:
        raise BadTokenizer(
            f"{str(folder.vocabulary)!r} needs the package `tokenizers`, which the extra `tokenizers` installs: {error}"
        ) from error
    assert folder.vocabulary is not None
    try:
        return LocalTokenizer(folder.vocabulary)
    except ValueError as error:
        raise BadTokenizer(f"{str(folder.vocabulary)!r} can't be loaded: {error}") from error

"""A tokenizer in this process. The only importer of `tokenizers`, which is an extra.

`encode_batch_fast` and `decode_batch` release the interpreter lock; `encode` and `decode` would hold it, for seconds at
a text of megabytes.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from secrets import token_hex

# One text can't be split among threads, and the library's own threads would warn when a process is started.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from tokenizers import AddedToken as LibraryToken
from tokenizers import Tokenizer

from openai_server.tokenizing.chunks import AddedToken, AddedTokens, Chunk, Spans
from openai_server.tokenizing.plain import without_added_tokens
from openai_server.tokenizing.spelling import Spelling


class BadText(Exception):
    """A text or token that can't be converted. The message is a sentence."""


class LocalTokenizer:
    """Thread-safe."""

    def __init__(self, vocabulary: Path) -> None:
        """`vocabulary` is a `tokenizer.json`. Raises ValueError if it can't be read."""
        try:
            self._tokenizer = Tokenizer.from_buffer(vocabulary.read_bytes())
        except Exception as error:  # the library raises nothing more specific
            raise ValueError(str(error)) from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        decoder = self._tokenizer.decoder
        self._spelling = Spelling(None if decoder is None else json.loads(decoder.__getstate__()))
        added = self._tokenizer.get_added_tokens_decoder()
        self.added = AddedTokens(
            AddedToken(token.content, token.special, token.lstrip, token.rstrip, token.single_word)
            for token in added.values()
        )
        self._pieces = {id: token.content.encode() for id, token in added.items()}
        """The bytes of tokens, as far as they were needed, by id."""
        self._separator = f"\ufdd0{token_hex(16)}"
        """An added token of `_plain`. Clients can't know it."""
        self._plain = self._without_added_tokens()
        blank = {id: token.content for id, token in added.items() if not token.content.strip()}
        numbers = {self._plain.token_to_id(text): id for id, text in blank.items()}
        self._renumbered = {number: id for number, id in numbers.items() if number is not None and number != id}
        """Id in `_plain` → id of an added token of whitespace only, if they differ."""

    def tokens(self, text: str, plain: Spans, *, add_special: bool, parse_special: bool = True) -> list[int]:
        """The ids of a text's tokens. `plain` are spans in UTF-8 bytes that contain no added tokens. `add_special`:
        with the tokens that the model expects around a text. Raises BadText."""
        chunks = self.added.chunks(text, plain, parse_special=parse_special)
        if not any(chunk.is_plain for chunk in chunks):
            return self._encoded(self._tokenizer, text, add_special)
        ids: list[int] = []
        for k, chunk in enumerate(chunks):
            ids += (
                self._plain_ids(chunk, is_first=k == 0)
                if chunk.is_plain
                else self._encoded(self._tokenizer, chunk.text)
            )
        if add_special:
            before, after = self._around()
            ids = before + ids + after
        return ids

    def pieces(self, ids: Sequence[int]) -> list[bytes]:
        """The bytes of each token. Raises BadText for an id that no token has."""
        known = self._pieces
        return [known[id] if id in known else self._piece(id) for id in ids]

    def text(self, ids: Sequence[int]) -> str:
        """Raises BadText for an id that no token has."""
        self.pieces(ids)
        [text] = self._tokenizer.decode_batch([list(ids)], skip_special_tokens=False)
        return text

    def _piece(self, id: int) -> bytes:
        token = self._tokenizer.id_to_token(id)
        if token is None:
            size = self._tokenizer.get_vocab_size()
            raise BadText(f"There is no token {id}; the vocabulary has {size} tokens.")
        piece = self._pieces[id] = self._spelling.bytes_of(token)
        return piece

    def _encoded(self, tokenizer: Tokenizer, text: str, add_special: bool = False) -> list[int]:
        try:
            [encoding] = tokenizer.encode_batch_fast([text], add_special_tokens=add_special)
        except Exception as error:  # as above; a vocabulary without an unknown token can't encode every text
            raise BadText(f"The tokenizer can't encode the text: {error}") from error
        return encoding.ids

    def _plain_ids(self, chunk: Chunk, *, is_first: bool) -> list[int]:
        if is_first:
            ids = self._encoded(self._plain, chunk.text)
        else:
            # Some tokenizers treat the beginning of a text in their own way, so the chunk must not be at the beginning.
            ids = self._encoded(self._plain, self._separator + chunk.text)[1:]
        return [self._renumbered.get(id, id) for id in ids] if self._renumbered else ids

    def _without_added_tokens(self) -> Tokenizer:
        """A tokenizer for plain text, which shares the vocabulary, unless that finds added tokens in plain text."""
        added = self._tokenizer.get_added_tokens_decoder()
        plain = Tokenizer(self._tokenizer.model)
        plain.normalizer, plain.pre_tokenizer = self._tokenizer.normalizer, self._tokenizer.pre_tokenizer
        if any(self._is_found(plain, id, token.content) for id, token in added.items()):
            plain = Tokenizer.from_str(json.dumps(without_added_tokens(json.loads(self._tokenizer.to_str()))))
        plain.add_tokens([token for token in added.values() if not token.content.strip()])
        plain.add_special_tokens([LibraryToken(self._separator, normalized=False, special=True)])
        return plain

    def _is_found(self, plain: Tokenizer, id: int, text: str) -> bool:
        try:
            return bool(text.strip()) and id in self._encoded(plain, text)
        except BadText:
            return False

    def _around(self) -> tuple[list[int], list[int]]:
        """The tokens that the model expects before and after a text."""
        bare = self._encoded(self._tokenizer, _SAMPLE)
        whole = self._encoded(self._tokenizer, _SAMPLE, True)
        for start in range(len(whole) - len(bare) + 1):
            if whole[start : start + len(bare)] == bare:
                return whole[:start], whole[start + len(bare) :]
        return [], []


_SAMPLE = "a"
"""A text that no tokenizer takes for an added token."""

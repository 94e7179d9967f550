"""The bytes that a token of a vocabulary stands for. PURE.

Vocabularies spell bytes in several ways, which the decoder of a `tokenizer.json` names.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class Spelling:
    """`decoder` is the value of that name in a `tokenizer.json`; None: tokens are their own texts."""

    def __init__(self, decoder: Mapping[str, Any] | None) -> None:
        self._byte_level = False
        self._byte_fallback = False
        self._prefix = ""
        """Precedes tokens that continue a word, in BERT's vocabularies."""
        self._replacements: list[tuple[str, str]] = []
        for part in _flat(decoder):
            match part:
                case {"type": "ByteLevel"}:
                    self._byte_level = True
                case {"type": "ByteFallback"}:
                    self._byte_fallback = True
                case {"type": "WordPiece", "prefix": str(prefix)}:
                    self._prefix = prefix
                case {"type": "Metaspace", "replacement": str(space)}:
                    self._replacements.append((space, " "))
                case {"type": "BPEDecoder", "suffix": str(suffix)} if suffix:
                    self._replacements.append((suffix, " "))
                case {"type": "Replace", "pattern": {"String": str(text)}, "content": str(content)} if text:
                    self._replacements.append((text, content))

    def bytes_of(self, token: str) -> bytes:
        if self._byte_fallback and (byte := _BYTE.fullmatch(token)):
            return bytes([int(byte[1], 16)])
        if self._byte_level:
            return b"".join(_BYTES.get(character) or character.encode() for character in token)
        if self._prefix:
            token = token.removeprefix(self._prefix)
        for text, content in self._replacements:
            token = token.replace(text, content)
        return token.encode()


def _flat(decoder: Mapping[str, Any] | None) -> Iterator[Mapping[str, Any]]:
    if decoder is None:
        return
    if decoder.get("type") == "Sequence":
        for part in decoder.get("decoders", ()):
            yield from _flat(part)
    else:
        yield decoder


def _byte_table() -> dict[str, bytes]:
    """GPT-2's spelling: printable bytes are their own characters, the others those from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): bytes([byte]) for byte in printable} | {
        chr(0x100 + k): bytes([byte]) for k, byte in enumerate(others)
    }


_BYTES = _byte_table()

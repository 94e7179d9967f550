from typing import Any

import pytest

from openai_server.tokenizing.spelling import Spelling

BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
REPLACE = {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}
LLAMA = {"type": "Sequence", "decoders": [REPLACE, {"type": "ByteFallback"}, {"type": "Fuse"}]}


@pytest.mark.parametrize(
    ("decoder", "token", "expected"),
    [
        (None, "Ġa", "Ġa".encode()),
        (BYTE_LEVEL, "ĠGrÃ¼", " Grü".encode()),
        (BYTE_LEVEL, "Ã", b"\xc3"),
        (BYTE_LEVEL, "ĊĀ世", "\n\0世".encode()),
        (LLAMA, "▁the▁fox", b" the fox"),
        (LLAMA, "<0xE4>", b"\xe4"),
        (LLAMA, "<0xE4> ", b"<0xE4> "),
        (REPLACE, "<0xE4>", b"<0xE4>"),
        ({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always"}, "▁a", b" a"),
        ({"type": "WordPiece", "prefix": "##", "cleanup": True}, "##ing", b"ing"),
        ({"type": "BPEDecoder", "suffix": "</w>"}, "fox</w>", b"fox "),
        ({"type": "Sequence", "decoders": [{"type": "Sequence", "decoders": [BYTE_LEVEL]}]}, "Ġ", b" "),
        ({"type": "CTC"}, "a", b"a"),
        ({"type": "Replace", "pattern": {"Regex": "x"}, "content": " "}, "x", b"x"),
    ],
)
def test_a_token_stands_for_these_bytes(decoder: dict[str, Any] | None, token: str, expected: bytes) -> None:
    assert Spelling(decoder).bytes_of(token) == expected


def test_byte_level_spells_every_byte() -> None:
    spelling = Spelling(BYTE_LEVEL)
    tokens = [chr(code) for code in range(0x21, 0x144)]
    assert {spelling.bytes_of(token) for token in tokens} >= {bytes([byte]) for byte in range(256)}

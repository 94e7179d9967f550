"""The echoed prompt: its text, and the piece of it for each token."""

from array import array

import pytest

from anyserve_worker.core.spans import Spans
from anyserve_worker.text.echo import Echo, echo_of

BOS, CALL, HI, SPACED, HALF, REST = range(6)
WRITTEN = [b"<s>", b"<call>", b"hi", b" hi", b"\xc3", b"\xa9"]


class Vocabulary:
    def __init__(self, *, bos: bool) -> None:
        self._bos = bos

    def written(self, token: int) -> bytes:
        return WRITTEN[token]

    def adds_bos(self, text: str, plain: Spans = ()) -> bool:
        return self._bos and not text.startswith("<s>")


@pytest.mark.parametrize(
    ("prompt", "tokens", "bos", "pieces"),
    [
        ("hi", [HI], False, [b"hi"]),
        ("hi", [BOS, HI], True, [b"hi"]),
        ("<s>hi", [BOS, HI], True, [b"<s>", b"hi"]),
        ("", [BOS], True, []),
        ("hié", [HI, HALF, REST], False, [b"hi", b"\xc3", b"\xa9"]),
        ("<call>hi", [BOS, CALL, HI], True, [b"<call>", b"hi"]),
        # SentencePiece adds a space in front of the text
        ("hi hi", [BOS, SPACED, SPACED], True, [b"hi", b" hi"]),
        (" hi", [SPACED], False, [b" hi"]),
    ],
)
def test_the_pieces_of_an_echo_join_to_the_prompt(
    prompt: str, tokens: list[int], bos: bool, pieces: list[bytes]
) -> None:
    echo = echo_of(prompt, array("i", tokens), Vocabulary(bos=bos))
    assert echo == Echo(prompt, tuple(pieces))
    assert b"".join(echo.pieces) == prompt.encode()


@pytest.mark.parametrize("bos", [True, False])
def test_an_echo_of_token_ids_has_the_text_of_every_token(bos: bool) -> None:
    ids = [BOS, SPACED, CALL, HALF, REST, HALF]
    echo = echo_of(ids, array("i", ids), Vocabulary(bos=bos))
    assert echo == Echo("<s> hi<call>é�", tuple(WRITTEN[token] for token in ids))

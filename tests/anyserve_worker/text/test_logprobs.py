"""Log probabilities are delivered with the text of their tokens, for any cut; stop strings have none."""

import codecs
from collections.abc import Iterable, Iterator

import pytest

from anyserve_worker.core.logprob import TokenLogprob
from anyserve_worker.text.logprobs import LogprobOutput
from anyserve_worker.text.output import TextOutput
from tests.anyserve_worker.text.cuts import cuts

Step = tuple[str, tuple[bytes, ...]]
"""The text and tokens that were delivered."""


def steps(pieces: list[bytes], stop: tuple[str, ...], size: int = 1) -> Iterator[Step]:
    """Yields the steps of an engine with `size` tokens a step; the last one is the end of the choice."""
    output, logprobs = TextOutput(stop), LogprobOutput()

    def popped(text: str, *, all: bool) -> Step:
        return text, tuple(entry.token for entry in logprobs.pop(len(text), all=all))

    for start in range(0, len(pieces), size):
        text = ""
        for n, piece in enumerate(pieces[start : start + size]):
            logprobs.push(TokenLogprob(piece, -float(start + n)), len(text) + output.n_held)
            text += output.push(piece)
            if output.stopped:
                yield popped(text, all=False)
                return
        yield popped(text, all=False)
    text = output.flush()
    yield popped(text, all=not output.stopped)


def beginnings(pieces: Iterable[bytes]) -> list[int]:
    """Returns the character at which each token begins, without regard to stop strings."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    position, starts = 0, []
    for piece in pieces:
        starts.append(position)
        position += len(decoder.decode(piece))
    return starts


DATA = [
    (b"plain", ()),
    ("aé€😀z".encode(), ()),
    (b"a\xe2\x82", ()),
    (b"a\xff\xf0\x9f\x98b", ()),
    (b"one END two", ("END",)),
    (b"END", ("END",)),
    (b"one EN", ("END",)),
    (b"EEEND", ("END", "EEN")),
    ("größer, größte".encode(), ("größt", "ö!")),
    (b"a\xe2\x82", ("�",)),
]


@pytest.mark.parametrize("size", [1, 2, 100])
@pytest.mark.parametrize(("data", "stop"), DATA)
def test_tokens_are_delivered_with_their_text_at_every_cut(data: bytes, stop: tuple[str, ...], size: int) -> None:
    for pieces in cuts(data):
        text = ""
        tokens: list[bytes] = []
        begins = beginnings(pieces)
        moves = list(steps(pieces, stop, size))
        for n, (new_text, delivered) in enumerate(moves):
            text += new_text
            tokens += delivered
            assert tokens == pieces[: len(tokens)], "tokens must be in order and complete"
            if n < len(moves) - 1:
                assert len(tokens) == sum(begin < len(text) for begin in begins[: len(tokens) + 1])
        whole = TextOutput(stop)
        assert text == "".join([*map(whole.push, pieces), whole.flush()])
        if whole.stopped:
            assert len(tokens) == sum(begin < len(text) for begin in begins)
        else:
            assert tokens == pieces


def test_a_token_waits_for_the_rest_of_its_character() -> None:
    assert list(steps([b"a\xc3", b"\xa9", b"b"], ())) == [
        ("a", (b"a\xc3",)),
        ("é", (b"\xa9",)),
        ("b", (b"b",)),
        ("", ()),
    ]
    assert list(steps([b"\xc3", b"\xa9"], ())) == [("", ()), ("é", (b"\xc3", b"\xa9")), ("", ())]


def test_a_token_waits_while_it_may_be_a_stop_string() -> None:
    assert list(steps([b"x", b"E", b"N", b"!"], ("END",))) == [
        ("x", (b"x",)),
        ("", ()),
        ("", ()),
        ("EN!", (b"E", b"N", b"!")),
        ("", ()),
    ]


def test_a_token_that_begins_before_a_stop_string_is_delivered() -> None:
    assert list(steps([b"x", b"yEN", b"D", b"z"], ("END",))) == [("x", (b"x",)), ("y", (b"yEN",)), ("", ())]


def test_control_tokens_without_text_wait_for_the_next_text() -> None:
    output = LogprobOutput()
    output.push(TokenLogprob(b"<|x|>", -1.0), 0)
    assert output.pop(0, all=False) == ()
    output.push(TokenLogprob(b"a", -2.0), 0)
    assert [entry.token for entry in output.pop(1, all=False)] == [b"<|x|>", b"a"]
    output.push(TokenLogprob(b"<|x|>", -3.0), 0)
    assert [entry.logprob for entry in output.pop(0, all=True)] == [-3.0]

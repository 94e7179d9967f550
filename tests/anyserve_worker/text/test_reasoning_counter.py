from itertools import pairwise

import pytest

from anyserve_worker.text.reasoning_counter import ReasoningCounter

TEXT = b"so I think.</think>Yes</think>"


@pytest.mark.parametrize("size", range(1, 12))
def test_tokens_are_counted_until_the_mark_is_complete(size: int) -> None:
    mark = ReasoningCounter(["</think>", "[/THINK]"])
    borders = [*range(0, len(TEXT), size), len(TEXT)]
    pieces = [TEXT[start:end] for start, end in pairwise(borders)]
    for n, piece in enumerate(pieces, 1):
        mark.push(piece, n)
    end = TEXT.index(b"</think>") + len(b"</think>")
    assert mark.count(len(pieces)) == -(-end // size)


BEGUN = b" \n<think>so</think>yes"


@pytest.mark.parametrize("size", range(1, len(BEGUN) + 1))
@pytest.mark.parametrize("text", [BEGUN, b"<thin air></think>", b"<think", b"   "])
def test_a_text_that_begins_otherwise_has_nothing_to_count(size: int, text: bytes) -> None:
    mark = ReasoningCounter(["</think>"], "<think>")
    pieces = [text[start : start + size] for start in range(0, len(text), size)]
    for n, piece in enumerate(pieces, 1):
        mark.push(piece, n)
    end = BEGUN.index(b"yes")
    assert mark.count(len(pieces)) == (-(-end // size) if text == BEGUN else 0)


def test_without_a_mark_in_the_text_all_tokens_count() -> None:
    mark = ReasoningCounter(["</think>"])
    mark.push(b"</thin", 1)
    assert mark.count(1) == 1
    mark.push(b"g", 2)
    assert mark.count(2) == 2

from itertools import pairwise

import pytest

from anyserve_worker.text.reasoning_counter import ReasoningCounter

TEXT = b"so I think.</think>Yes</think>"


@pytest.mark.parametrize("size", range(1, 12))
def test_tokens_are_counted_until_the_end_tag_is_complete(size: int) -> None:
    counter = ReasoningCounter(["</think>", "[/THINK]"])
    borders = [*range(0, len(TEXT), size), len(TEXT)]
    pieces = [TEXT[start:end] for start, end in pairwise(borders)]
    for n, piece in enumerate(pieces, 1):
        counter.push(piece, n)
    end = TEXT.index(b"</think>") + len(b"</think>")
    assert counter.count(len(pieces)) == -(-end // size)


TEXT_WITH_BEGIN = b" \n<think>so</think>yes"


@pytest.mark.parametrize("size", range(1, len(TEXT_WITH_BEGIN) + 1))
@pytest.mark.parametrize("text", [TEXT_WITH_BEGIN, b"<thin air></think>", b"<think", b"   "])
def test_a_text_without_the_begin_tag_counts_no_tokens(size: int, text: bytes) -> None:
    counter = ReasoningCounter(["</think>"], "<think>")
    pieces = [text[start : start + size] for start in range(0, len(text), size)]
    for n, piece in enumerate(pieces, 1):
        counter.push(piece, n)
    end = TEXT_WITH_BEGIN.index(b"yes")
    assert counter.count(len(pieces)) == (-(-end // size) if text == TEXT_WITH_BEGIN else 0)


def test_all_tokens_count_without_an_end_tag() -> None:
    counter = ReasoningCounter(["</think>"])
    counter.push(b"</thin", 1)
    assert counter.count(1) == 1
    counter.push(b"g", 2)
    assert counter.count(2) == 2

from itertools import pairwise

import pytest

from anyserve_worker.mark import Mark

TEXT = b"so I think.</think>Yes</think>"


@pytest.mark.parametrize("size", range(1, 12))
def test_tokens_are_counted_until_the_mark_is_complete(size: int) -> None:
    mark = Mark(["</think>", "[/THINK]"])
    borders = [*range(0, len(TEXT), size), len(TEXT)]
    pieces = [TEXT[start:end] for start, end in pairwise(borders)]
    for n, piece in enumerate(pieces, 1):
        mark.push(piece, n)
    end = TEXT.index(b"</think>") + len(b"</think>")
    assert mark.count(len(pieces)) == -(-end // size)


def test_without_a_mark_in_the_text_all_tokens_count() -> None:
    mark = Mark(["</think>"])
    mark.push(b"</thin", 1)
    assert mark.count(1) == 1
    mark.push(b"g", 2)
    assert mark.count(2) == 2

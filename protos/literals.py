"""One regular expression for many texts, which finds the longest of them at a place.

PURE. Both programs look for the special tokens of a vocabulary, of which some have thousands: as a plain alternation,
each place where one may begin would cost as many comparisons as there are tokens.
"""

import re
from collections.abc import Iterable, Iterator
from itertools import takewhile


def pattern_of(texts: Iterable[str]) -> re.Pattern[str]:
    """Matches each of the texts and nothing else; of several that begin at one place, the longest. No text is empty."""
    return re.compile(_tree(sorted(set(texts))) or r"(?!)")


def occurrences(pattern: re.Pattern[str], text: str, start: int = 0, end: int | None = None) -> Iterator[re.Match[str]]:
    """All matches in `text[start:end]`, overlapping ones as well: at most one for each place where a match begins."""
    stop = len(text) if end is None else end
    while found := pattern.search(text, start, stop):
        yield found
        start = found.start() + 1


def _tree(texts: list[str]) -> str:
    groups: dict[str, list[str]] = {}
    for text in texts:
        if text:
            groups.setdefault(text[0], []).append(text)
    branches = []
    for group in groups.values():
        # They are sorted, so what the first and the last one have in common all of them have.
        n = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(group[0], group[-1], strict=False)))
        branches.append(re.escape(group[0][:n]) + _tree([text[n:] for text in group]))
    tree = branches[0] if len(branches) == 1 else f"(?:{'|'.join(branches)})" if branches else ""
    return f"(?:{tree})?" if branches and "" in texts else tree

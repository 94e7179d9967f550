"""Builds one regular expression that finds the longest of many texts at a place. PURE.

Both programs search for the special tokens of a vocabulary, which may have thousands. A plain alternation would cost
one comparison per token at each place where a token may begin.
"""

import re
from collections.abc import Iterable, Iterator
from itertools import takewhile


def pattern_of(texts: Iterable[str]) -> re.Pattern[str]:
    """Matches exactly the texts, none of them empty, and the longest of those that begin at one place."""
    return re.compile(_tree(sorted(set(texts))) or r"(?!)")


def occurrences(pattern: re.Pattern[str], text: str, start: int = 0, end: int | None = None) -> Iterator[re.Match[str]]:
    """Yields the matches in `text[start:end]`, overlapping ones too: at most one for each place where one begins."""
    stop = len(text) if end is None else end
    while match := pattern.search(text, start, stop):
        yield match
        start = match.start() + 1


def _tree(texts: list[str]) -> str:
    groups: dict[str, list[str]] = {}
    for text in texts:
        if text:
            groups.setdefault(text[0], []).append(text)
    branches = []
    for group in groups.values():
        # The group is sorted, so a prefix common to its first and last text is common to all.
        n = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(group[0], group[-1], strict=False)))
        branches.append(re.escape(group[0][:n]) + _tree([text[n:] for text in group]))
    tree = branches[0] if len(branches) == 1 else f"(?:{'|'.join(branches)})" if branches else ""
    return f"(?:{tree})?" if branches and "" in texts else tree

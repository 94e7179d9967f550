"""The key of a prefix: the adapter and media that its KV cells depend on, besides its token ids. PURE."""

import sys
from dataclasses import dataclass
from itertools import zip_longest

NO_LIMIT = sys.maxsize
_NO_ITEM = (NO_LIMIT, b"")


@dataclass(frozen=True, slots=True)
class PrefixKey:
    adapter: int = 0
    """Id of the adapter that computes the cells; 0: none."""
    media: tuple[tuple[int, bytes], ...] = ()
    """(position of the item's first token, digest of its contents) for each item, in the order of positions."""

    def shared_length(self, other: "PrefixKey") -> int:
        """Returns how many tokens two sequences with these keys can share, if their token ids are equal.

        0 if the adapters differ, else the number of tokens before the first media item that differs.
        """
        if self.adapter != other.adapter:
            return 0
        for item, others in zip_longest(self.media, other.media, fillvalue=_NO_ITEM):
            if item != others:
                return min(item[0], others[0])
        return NO_LIMIT


TEXT_KEY = PrefixKey()
"""The key of every sequence without adapter and media. It is a single object, so that `is` can compare it."""

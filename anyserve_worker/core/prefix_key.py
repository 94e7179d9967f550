"""What the KV cells of a prefix depend on besides its token ids: adapter and media. PURE."""

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
    """(position of the first token that an item stands at, digest of its contents), in the order of positions."""

    def shared_length(self, other: "PrefixKey") -> int:
        """Returns how many tokens two sequences with these keys can have in common, if their token ids are equal.

        Nothing under another adapter; with media, the tokens before the first item that differs.
        """
        if self.adapter != other.adapter:
            return 0
        for item, others in zip_longest(self.media, other.media, fillvalue=_NO_ITEM):
            if item != others:
                return min(item[0], others[0])
        return NO_LIMIT


TEXT_KEY = PrefixKey()
"""The key of every sequence without adapter and media: one object, which `is` compares."""

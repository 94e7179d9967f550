"""Chooses the replica of a model that likely has a prompt's prefix in its cache. PURE.

A prompt's beginning is hashed in blocks. `Affinity` remembers which addresses got which blocks, and prefers those that
got the longest beginning of a prompt, so that the turns of a conversation stay on one replica. Many replicas soon have
a system prompt; a new conversation behind it goes to one of these, by the rendezvous hash of its first new block. The
hash depends on nothing but the block and the addresses, so sidecars agree without exchanging anything, and an address
that comes or goes moves only its own share of the conversations.

A preferred replica that has `margin` more running requests than the least busy one is passed over. Nothing is certain:
a replica may have dropped a prefix, or lost all of them in a restart. That costs no more than any other choice.
"""

import zlib
from array import array
from collections.abc import Iterable, Mapping
from hashlib import blake2b

from openai_server.backends.dialects.base import Call

Prefix = tuple[int, ...]
"""A hash of each beginning of a prompt that ends with a block, the shortest first."""

BLOCK = 256
"""Minimum bytes of a block. A beginning that is shorter, such as `Hi`, is not hashed."""
SHARE = 16
"""A block has at least a 16th of the bytes before it, so that a long prompt has no more than about a hundred."""
MAX_BYTES = 1 << 18
"""Bytes of a text that are hashed."""
MAX_IDS = 1 << 13
"""Token ids of a prompt that are hashed, four bytes each. It takes longer to convert them than to hash them."""
MAX_BLOCKS = 1 << 13
"""Blocks to remember; about 1.5 MB. The least recently used are dropped first."""
MAX_HOLDERS = 16
"""Addresses to remember for each block, the last ones that got it."""


def prefix_of(call: Call) -> Prefix:
    """The hashes of the call's prompt; empty if it is short. Takes 5 µs for a kilobyte, at most 0.5 ms."""
    request = call.request
    for tensor in request.inputs:
        if tensor.name == call.prompt_input:
            if texts := tensor.contents.bytes_contents:
                return hashes(texts[0], request.model_name)
            ids = array("i", tensor.contents.int_contents[:MAX_IDS])
            return hashes(ids.tobytes(), request.model_name)
    return ()


def hashes(prompt: bytes, model: str = "") -> Prefix:
    """The hashes of the blocks of a prompt for this model, since a model uses no other's cache.

    The end of the prompt is left out unless it fills a block: the next turn continues it.
    """
    view, begin, last = memoryview(prompt)[:MAX_BYTES], 0, zlib.crc32(model.encode())
    found = []
    while (end := begin + max(BLOCK, begin // SHARE)) <= len(view):
        last = zlib.crc32(view[begin:end], last)
        found.append(last)
        begin = end
    return tuple(found)


def margin(least: int) -> int:
    """How many more running requests than the least busy replica, which has `least`, a preferred one may have."""
    return 1 + least // 4


class Affinity:
    """The addresses that got the beginnings of recent prompts."""

    def __init__(self) -> None:
        self._holders: dict[int, tuple[str, ...]] = {}
        """By the hash of a beginning; the least recently used comes first."""

    def choose(self, prefix: Prefix, running: Mapping[str, int]) -> str:
        """The address that gets the prompt. `prefix` and `running` must not be empty.

        `running` has the number of running requests by address, for all replicas that may get the prompt.
        """
        least = min(running.values())
        limit = least + margin(least)
        n_known = self._n_known(prefix)
        holders = self._holders[prefix[n_known - 1]] if n_known else ()
        preferred = [address for address in holders if running.get(address, limit + 1) <= limit]
        chosen = _first(
            preferred or (address for address, n in running.items() if n == least),
            prefix[min(n_known, len(prefix) - 1)],
        )
        self._remember(prefix, chosen)
        return chosen

    def _n_known(self, prefix: Prefix) -> int:
        """Number of blocks of the longest beginning that any address got."""
        for n, block in enumerate(prefix):
            if block not in self._holders:
                return n
        return len(prefix)

    def _remember(self, prefix: Prefix, address: str) -> None:
        blocks = self._holders
        for block in reversed(prefix):  # without its beginning, the rest of a prefix would not be found
            holders = blocks.pop(block, ())
            blocks[block] = holders if address in holders else (*holders[1 - MAX_HOLDERS :], address)
        while len(blocks) > MAX_BLOCKS:
            del blocks[next(iter(blocks))]


def _first(addresses: Iterable[str], block: int) -> str:
    """The first of the addresses in the order that rendezvous hashing gives them for this block."""
    candidates = list(addresses)
    if len(candidates) == 1:
        return candidates[0]
    return max(candidates, key=lambda address: blake2b(f"{block} {address}".encode(), digest_size=8).digest())

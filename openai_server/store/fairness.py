"""Chooses the queued responses that run next. PURE."""

import heapq
from collections.abc import Mapping, Sequence


def fair(queued: Mapping[str, Sequence[tuple[float, str]]], running: Mapping[str, int], n: int) -> list[str]:
    """Returns the ids of the next `n` responses. `queued` has the oldest ones of each owner, in order, each with its
    time and id; `running` has the numbers of those that run.

    A place goes to the owner with the fewest running responses, among equals to the oldest response.
    """
    heap = [(running.get(owner, 0), *own[0], owner, 0) for owner, own in queued.items() if own]
    heapq.heapify(heap)
    ids: list[str] = []
    while heap and len(ids) < n:
        n_running, _, id, owner, position = heap[0]
        ids.append(id)
        own = queued[owner]
        if position + 1 < len(own):
            heapq.heapreplace(heap, (n_running + 1, *own[position + 1], owner, position + 1))
        else:
            heapq.heappop(heap)
    return ids

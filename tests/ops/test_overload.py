"""More requests than there is room for: each is answered, some with 429 at once. `tests.ops.overload` tells speeds."""

import urllib.request
from collections.abc import Iterator

import pytest

from tests.e2e import servers
from tests.ops.client import Asking, ask
from tests.ops.traffic import COMPLETIONS, KEYS
from tests.ops.trial import Pair, Trial, pair
from tests.wire.exposition import Scrape

PLACES = QUEUE = 2
LONG = {"prompt": "Once", "max_tokens": 1900, "ignore_eos": True}
SHORT = {"prompt": "Once", "max_tokens": 2}
AT_ONCE = 5.0
"""Seconds that a refusal may take on a loaded machine."""


@pytest.fixture(scope="module")
def served() -> Iterator[Pair]:
    with pair(PLACES, QUEUE) as served:
        yield served


def test_a_flood_is_answered_and_the_other_key_has_its_share(served: Pair) -> None:
    trial = Trial(served, tokens=16, seconds=3)
    full = trial.all_places()
    assert [outcome for outcome in full.outcomes if not outcome.accepted] == []
    rate = len(full.outcomes) / full.seconds
    flooding, steady = trial.one_client_beside(10 * rate)
    assert [each for each in flooding.outcomes if not (each.accepted or each.refused)] == []
    assert [each for each in steady.outcomes if not each.accepted] == []
    assert flooding.accepted
    assert flooding.refused
    assert steady.accepted
    assert not flooding.watch.lost_probes


def test_while_all_places_are_taken_others_are_refused_at_once(served: Pair) -> None:
    one, other = KEYS
    inside = [Asking(served.url, LONG, COMPLETIONS, key=one) for _ in range(PLACES + QUEUE)]
    servers.eventually(lambda: running(served) == PLACES + QUEUE)
    more = [Asking(served.url, SHORT | {"stream": i % 2 == 0}, COMPLETIONS, key=one) for i in range(30)]
    for end in [asking.end() for asking in more]:
        assert (end.status, (end.error or {})["code"], end.headers["retry-after"]) == (429, "server_overloaded", "1")
        assert end.seconds < AT_ONCE
    newcomer = Asking(served.url, SHORT, COMPLETIONS, key=other)
    servers.eventually(lambda: any(asking.over for asking in inside))
    (displaced,) = [asking for asking in inside if asking.over]  # whichever came last
    assert displaced.end().status == 429
    for asking in inside:
        if asking is not displaced:
            asking.leave()
    assert newcomer.end().good
    assert ask(served.url, SHORT, COMPLETIONS, key=one).good
    servers.eventually(lambda: running(served) == 0)


def running(served: Pair) -> float:
    """Requests inside the sidecar; those that wait in its queue count."""
    with urllib.request.urlopen(f"{served.url}/metrics", timeout=10) as answer:
        return Scrape(answer.read()).value("openai_server_requests_running", endpoint=COMPLETIONS)

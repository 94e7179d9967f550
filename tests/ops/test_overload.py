"""More requests than there is room for: each is answered, some with 429 at once. `tests.ops.overload` measures
durations."""

import urllib.request
from collections.abc import Iterator

import pytest

from tests.e2e import servers
from tests.ops.client import PendingRequest, post
from tests.ops.traffic import COMPLETIONS, KEYS
from tests.ops.trial import Pair, Trial, pair
from tests.wire.exposition import Scrape

SLOTS = QUEUE = 2
LONG = {"prompt": "Once", "max_tokens": 1900, "ignore_eos": True}
SHORT = {"prompt": "Once", "max_tokens": 2}
REFUSAL_SECONDS = 5.0
"""Maximum seconds of a refusal on a loaded machine."""


@pytest.fixture(scope="module")
def served() -> Iterator[Pair]:
    with pair(SLOTS, QUEUE) as served:
        yield served


def test_a_flood_is_answered_and_the_other_key_has_its_share(served: Pair) -> None:
    trial = Trial(served, tokens=16, seconds=3)
    full = trial.all_slots()
    assert [outcome for outcome in full.outcomes if not outcome.accepted] == []
    rate = len(full.outcomes) / full.seconds
    flooding, steady = trial.one_client_beside(10 * rate)
    assert [outcome for outcome in flooding.outcomes if not (outcome.accepted or outcome.refused)] == []
    assert [outcome for outcome in steady.outcomes if not outcome.accepted] == []
    assert flooding.accepted
    assert flooding.refused
    assert steady.accepted
    assert not flooding.watch.lost_probes


def test_while_all_slots_are_taken_requests_are_refused_at_once(served: Pair) -> None:
    first_key, second_key = KEYS
    admitted = [PendingRequest(served.url, LONG, COMPLETIONS, key=first_key) for _ in range(SLOTS + QUEUE)]
    servers.eventually(lambda: running(served) == SLOTS + QUEUE)
    excess = [PendingRequest(served.url, SHORT | {"stream": i % 2 == 0}, COMPLETIONS, key=first_key) for i in range(30)]
    for result in [request.result() for request in excess]:
        assert (result.status, (result.error or {})["code"], result.headers["retry-after"]) == (
            429,
            "server_overloaded",
            "1",
        )
        assert result.seconds < REFUSAL_SECONDS
    newcomer = PendingRequest(served.url, SHORT, COMPLETIONS, key=second_key)
    servers.eventually(lambda: any(request.is_done for request in admitted))
    (displaced,) = [request for request in admitted if request.is_done]  # the last one to arrive
    assert displaced.result().status == 429
    for request in admitted:
        if request is not displaced:
            request.disconnect()
    assert newcomer.result().good
    assert post(served.url, SHORT, COMPLETIONS, key=first_key).good
    servers.eventually(lambda: running(served) == 0)


def running(served: Pair) -> float:
    """Returns the number of requests inside the sidecar, including those in its queue."""
    with urllib.request.urlopen(f"{served.url}/metrics", timeout=10) as response:
        return Scrape(response.read()).value("openai_server_requests_running", endpoint=COMPLETIONS)

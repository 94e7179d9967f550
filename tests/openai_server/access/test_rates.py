from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openai_server.access.rates import Account, Bucket, Rates, duration
from openai_server.core.errors import RateLimited


def account(*, requests: int = 0, tokens: int = 0) -> Account:
    return Rates(requests_per_minute=requests, tokens_per_minute=tokens).account("", 0.0)


def rejection(work: Callable[[], object]) -> RateLimited:
    with pytest.raises(RateLimited) as error:
        work()
    return error.value


def test_requests_beyond_the_rate_are_rejected_with_the_waiting_time() -> None:
    limited = account(requests=3)
    for remaining in (2, 1, 0):
        limited.take_request(0.0)
        assert limited.headers(0.0)["x-ratelimit-remaining-requests"] == str(remaining)
    error = rejection(lambda: limited.take_request(0.0))
    assert (error.status, error.type, error.code) == (429, "rate_limit_error", "rate_limit_exceeded")
    assert error.message == "The limit of 3 requests per minute is reached; please try again in 20s."
    assert error.headers == {"retry-after": "20", "retry-after-ms": "20000"}
    assert limited.headers(0.0) == {
        "x-ratelimit-limit-requests": "3",
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-requests": "1m0s",
    }
    rejection(lambda: limited.take_request(19.99))
    limited.take_request(20.0)
    rejection(lambda: limited.take_request(20.0))


def test_a_bucket_is_not_filled_beyond_its_limit() -> None:
    limited = account(requests=2)
    for _ in range(2):
        limited.take_request(1e6)
    rejection(lambda: limited.take_request(1e6))


def test_unused_reserved_tokens_are_returned() -> None:
    limited = account(tokens=100)
    reserved = limited.reserve(90, 0.0)
    rejection(lambda: limited.reserve(20, 0.0))
    limited.settle(reserved, 10, 0.0)
    assert limited.headers(0.0)["x-ratelimit-remaining-tokens"] == "90"
    assert limited.headers(0.0)["x-ratelimit-reset-tokens"] == "6s"


def test_tokens_used_beyond_the_reservation_are_a_debt() -> None:
    limited = account(tokens=60)
    limited.settle(limited.reserve(10, 0.0), 100, 0.0)
    assert limited.headers(0.0)["x-ratelimit-remaining-tokens"] == "0"
    assert limited.headers(0.0)["x-ratelimit-reset-tokens"] == "1m40s"
    assert rejection(lambda: limited.reserve(1, 0.0)).headers["retry-after"] == "41"
    limited.reserve(1, 41.0)


def test_a_reservation_larger_than_the_bucket_waits_for_a_full_bucket() -> None:
    limited = account(tokens=100)
    assert limited.reserve(5000, 0.0) == 100
    assert rejection(lambda: limited.reserve(5000, 30.0)).headers["retry-after"] == "30"
    assert limited.reserve(5000, 60.0) == 100


def test_without_limits_there_are_no_headers() -> None:
    free = account()
    for _ in range(1000):
        free.take_request(0.0)
        free.settle(free.reserve(10**9, 0.0), 10**9, 0.0)
    assert free.headers(0.0) == {}


def test_each_caller_has_its_own_account() -> None:
    rates = Rates(requests_per_minute=1, tokens_per_minute=0)
    rates.account("a", 0.0).take_request(0.0)
    rates.account("b", 0.0).take_request(0.0)
    rejection(lambda: rates.account("a", 1.0).take_request(1.0))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0ms"),
        (0.0001, "1ms"),
        (0.12, "120ms"),
        (1, "1s"),
        (17.25, "17.25s"),
        (60, "1m0s"),
        (90.5, "1m30.5s"),
        (3600, "60m0s"),
    ],
)
def test_a_duration_has_the_format_of_openai(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@given(
    st.integers(1, 1000),
    st.lists(st.tuples(st.floats(0, 100), st.integers(-500, 500)), max_size=20),
    st.integers(0, 2000),
)
def test_a_request_succeeds_after_the_reported_wait(limit: int, takings: list[tuple[float, int]], amount: int) -> None:
    bucket, now = Bucket(limit, 0.0), 0.0
    for pause, n_taken in takings:
        now += pause
        bucket.take(n_taken, now)
        assert bucket.level(now) <= limit
    wait = bucket.wait(amount, now)
    if wait > 0.01:
        assert bucket.wait(amount, now + wait * 0.99) > 0
    assert bucket.wait(amount, now + wait) == 0


@given(st.lists(st.floats(0, 10), max_size=200))
def test_requests_never_exceed_a_full_bucket_plus_its_refill(pauses: list[float]) -> None:
    limited, now, served = account(requests=10), 0.0, 0
    for pause in pauses:
        now += pause
        try:
            limited.take_request(now)
        except RateLimited:
            continue
        served += 1
        assert served <= 10 + now * 10 / 60 + 1e-3

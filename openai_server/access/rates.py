"""Requests and tokens per minute, as OpenAI counts them: every caller has a bucket of each, which fills steadily.

PURE: `now` is passed in, in seconds from any start. A request takes one from the bucket of requests. From the bucket of
tokens it takes the most that it may need, and at its end returns the tokens that it did not use. If it used more, the
bucket's level falls below 0.
"""

import math
from dataclasses import dataclass

from openai_server.core.errors import RateLimited

MINUTE = 60.0


class Bucket:
    """Full at first. `limit` is its capacity, and the amount that it gains per minute."""

    def __init__(self, limit: int, now: float) -> None:
        self.limit = limit
        self._level = float(limit)
        self._at = now

    def level(self, now: float) -> float:
        """The amount in the bucket; below 0 if more was used than reserved."""
        if now > self._at:
            self._level = min(self.limit, self._level + (now - self._at) * self.limit / MINUTE)
            self._at = now
        return self._level

    def wait(self, amount: float, now: float) -> float:
        """Seconds until the bucket holds `amount`, or is full if that is less."""
        # The tolerance is for rounding errors when a client waits exactly as long as the response requested.
        missing = min(amount, self.limit) - self.level(now)
        return 0.0 if missing <= 1e-6 else missing * MINUTE / self.limit

    def take(self, amount: float, now: float) -> None:
        """Takes the amount; a negative one is given back."""
        self._level = min(self.limit, self.level(now) - amount)


@dataclass(slots=True)
class Account:
    """The buckets of one caller; None is no limit."""

    requests: Bucket | None
    tokens: Bucket | None

    def take_request(self, now: float) -> None:
        """Raises RateLimited."""
        self._take("requests", 1, now)

    def reserve(self, tokens: int, now: float) -> int:
        """Reserves up to `tokens`, and returns the number reserved. Raises RateLimited."""
        if self.tokens is None:
            return 0
        # A request that may need more than the bucket's capacity takes all of it: otherwise it could never run.
        tokens = min(tokens, self.tokens.limit)
        self._take("tokens", tokens, now)
        return tokens

    def settle(self, reserved: int, used: int, now: float) -> None:
        """Replaces the reserved tokens with those used."""
        if self.tokens is not None:
            self.tokens.take(used - reserved, now)

    def headers(self, now: float) -> dict[str, str]:
        headers: dict[str, str] = {}
        for name, bucket in (("requests", self.requests), ("tokens", self.tokens)):
            if bucket is not None:
                headers[f"x-ratelimit-limit-{name}"] = str(bucket.limit)
                headers[f"x-ratelimit-remaining-{name}"] = str(max(0, math.floor(bucket.level(now) + 1e-6)))
                headers[f"x-ratelimit-reset-{name}"] = duration(bucket.wait(bucket.limit, now))
        return headers

    def _take(self, name: str, amount: int, now: float) -> None:
        bucket: Bucket | None = getattr(self, name)
        if bucket is None:
            return
        if wait := bucket.wait(amount, now):
            raise RateLimited(
                f"The limit of {bucket.limit} {name} per minute is reached; please try again in {duration(wait)}.",
                wait,
            )
        bucket.take(amount, now)


class Rates:
    """The accounts of all callers; 0 is no limit."""

    def __init__(self, *, requests_per_minute: int, tokens_per_minute: int) -> None:
        self._requests = requests_per_minute
        self._tokens = tokens_per_minute
        self._accounts: dict[str, Account] = {}
        self.limited = bool(requests_per_minute or tokens_per_minute)

    def account(self, caller: str, now: float) -> Account:
        if (account := self._accounts.get(caller)) is None:
            account = self._accounts[caller] = Account(
                Bucket(self._requests, now) if self._requests else None,
                Bucket(self._tokens, now) if self._tokens else None,
            )
        return account


def duration(seconds: float) -> str:
    """The time in the form of OpenAI's headers, rounded up: `120ms`, `17s`, `1m30.5s`."""
    milliseconds = math.ceil(seconds * 1000 - 1e-6)
    if milliseconds < 1000:
        return f"{milliseconds}ms"
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes}m{rest / 1000:g}s" if minutes else f"{rest / 1000:g}s"

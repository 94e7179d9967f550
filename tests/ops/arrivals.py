"""Clients that request streams: at fixed times, however many are unanswered (open loop), or one after another."""

import asyncio
import json
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

PATH = "/v1/completions"
TIMEOUT = 120.0
WORDS = ("fox", "crow", "wood", "river", "book", "moon", "king", "door")


@dataclass
class Outcome:
    """The outcome of one request; times in seconds of time.monotonic()."""

    sent: float
    tokens: int
    """Tokens of a complete response."""
    first_token: float = 0.0
    """Time of the first token; 0: there was none."""
    ended: float = 0.0
    status: int = 0
    retry_after: str = ""
    code: str = ""
    failure: str = ""
    """Why there is no complete response; "" if there is one."""

    @property
    def accepted(self) -> bool:
        return self.status == 200 and not self.failure

    @property
    def refused(self) -> bool:
        """Whether the refusal is correct: status, code, and a time to retry."""
        return self.status == 429 and self.code == "server_overloaded" and self.retry_after.isdigit()

    @property
    def wait(self) -> float:
        return self.first_token - self.sent

    @property
    def seconds(self) -> float:
        return self.ended - self.sent

    @property
    def per_token(self) -> float:
        return (self.ended - self.first_token) / max(1, self.tokens - 1)


class StreamClient:
    """Requests streams of about `tokens` tokens with different prompts, each on a new connection."""

    def __init__(self, url: str, key: str, tokens: int, seed: int = 1) -> None:
        split = urlsplit(url)
        assert split.hostname is not None
        self._host, self._port = split.hostname, split.port
        self._key = key
        self._tokens = tokens
        self._rng = random.Random(seed)

    async def __call__(self) -> Outcome:
        prompt = " ".join(self._rng.choices(WORDS, k=12))
        tokens = self._rng.randint(
            self._tokens // 2, self._tokens * 3 // 2
        )  # different lengths, so that streams don't all end at once
        fields = {"prompt": prompt, "max_tokens": tokens, "ignore_eos": True, "temperature": 1.0, "stream": True}
        body = json.dumps(fields).encode()
        head = f"POST {PATH} HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer {self._key}\r\n"
        outcome = Outcome(time.monotonic(), tokens)
        try:
            async with asyncio.timeout(TIMEOUT):
                await self._send(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body, outcome)
        except (OSError, ValueError, asyncio.IncompleteReadError) as error:  # TimeoutError is an OSError
            outcome.failure = repr(error)
        outcome.ended = time.monotonic()
        return outcome

    async def _send(self, request: bytes, outcome: Outcome) -> None:
        reader, writer = await asyncio.open_connection(self._host, self._port)
        try:
            writer.write(request)
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            outcome.status = int(head.split()[1])
            headers = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if line)
            outcome.retry_after = headers.get("retry-after", "")
            body = b""
            while data := await reader.read(1 << 16):
                body += data
                if outcome.status == 200 and not outcome.first_token and b"data: " in body:
                    outcome.first_token = time.monotonic()
        finally:
            writer.transport.abort()
        if outcome.status != 200:
            outcome.code = json.loads(body)["error"]["code"]
        elif b"data: [DONE]" not in body or b'data: {"error"' in body:
            outcome.failure = f"cut off: {body[-200:]!r}"


Send = Callable[[], Awaitable[Outcome]]


async def open_loop(send: Send, rate: float, seconds: float, seed: int = 1) -> list[Outcome]:
    """Sends `rate` requests per second, at independent moments (a Poisson process)."""
    rng = random.Random(seed)
    requests: list[asyncio.Future[Outcome]] = []
    next_time = began = time.monotonic()
    while (next_time := next_time + rng.expovariate(rate)) < began + seconds:
        await asyncio.sleep(max(0.0, next_time - time.monotonic()))
        requests.append(asyncio.ensure_future(send()))
    return list(await asyncio.gather(*requests))


async def closed_loop(send: Send, n_clients: int, seconds: float) -> list[Outcome]:
    """Each client sends its next request as soon as the last one is answered."""
    deadline = time.monotonic() + seconds

    async def client() -> list[Outcome]:
        outcomes = []
        while time.monotonic() < deadline:
            outcomes.append(await send())
        return outcomes

    return [outcome for outcomes in await asyncio.gather(*(client() for _ in range(n_clients))) for outcome in outcomes]


def tokens_within(outcomes: Sequence[Outcome], began: float, ended: float) -> float:
    """Returns the tokens that arrived in this time, if those of a response arrive evenly."""
    total = 0.0
    for outcome in outcomes:
        if outcome.accepted and outcome.ended > outcome.first_token:
            inside = min(ended, outcome.ended) - max(began, outcome.first_token)
            total += max(0.0, inside) / (outcome.ended - outcome.first_token) * outcome.tokens
    return total

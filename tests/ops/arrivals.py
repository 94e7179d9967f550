"""Clients that ask for streams: at their time, however many are unanswered (open loop), or one after the other."""

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
    """Of one request; times in seconds of time.monotonic()."""

    sent: float
    tokens: int
    """Of a whole answer."""
    first: float = 0.0
    """When its first token came; 0: never."""
    ended: float = 0.0
    status: int = 0
    retry_after: str = ""
    code: str = ""
    failure: str = ""
    """That it got no answer, or none that is whole."""

    @property
    def accepted(self) -> bool:
        return self.status == 200 and not self.failure

    @property
    def refused(self) -> bool:
        """As it should be: told so, and when to come again."""
        return self.status == 429 and self.code == "server_overloaded" and self.retry_after.isdigit()

    @property
    def wait(self) -> float:
        return self.first - self.sent

    @property
    def seconds(self) -> float:
        return self.ended - self.sent

    @property
    def per_token(self) -> float:
        return (self.ended - self.first) / max(1, self.tokens - 1)


class Asker:
    """Asks for streams of about `tokens` tokens, of prompts that differ, each on a connection of its own."""

    def __init__(self, url: str, key: str, tokens: int, seed: int = 1) -> None:
        split = urlsplit(url)
        assert split.hostname is not None
        self._host, self._port = split.hostname, split.port
        self._key = key
        self._tokens = tokens
        self._chance = random.Random(seed)

    async def __call__(self) -> Outcome:
        prompt = " ".join(self._chance.choices(WORDS, k=12))
        tokens = self._chance.randint(self._tokens // 2, self._tokens * 3 // 2)  # else all would end at the same time
        fields = {"prompt": prompt, "max_tokens": tokens, "ignore_eos": True, "temperature": 1.0, "stream": True}
        body = json.dumps(fields).encode()
        head = f"POST {PATH} HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer {self._key}\r\n"
        outcome = Outcome(time.monotonic(), tokens)
        try:
            async with asyncio.timeout(TIMEOUT):
                await self._ask(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body, outcome)
        except (OSError, ValueError, asyncio.IncompleteReadError) as error:  # of which TimeoutError is one
            outcome.failure = repr(error)
        outcome.ended = time.monotonic()
        return outcome

    async def _ask(self, request: bytes, outcome: Outcome) -> None:
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
                if outcome.status == 200 and not outcome.first and b"data: " in body:
                    outcome.first = time.monotonic()
        finally:
            writer.transport.abort()
        if outcome.status != 200:
            outcome.code = json.loads(body)["error"]["code"]
        elif b"data: [DONE]" not in body or b'data: {"error"' in body:
            outcome.failure = f"cut off: {body[-200:]!r}"


Ask = Callable[[], Awaitable[Outcome]]


async def open_loop(ask: Ask, rate: float, seconds: float, seed: int = 1) -> list[Outcome]:
    """`rate` a second, at moments that know nothing of each other (a Poisson process)."""
    chance = random.Random(seed)
    asked: list[asyncio.Future[Outcome]] = []
    now = began = time.monotonic()
    while (now := now + chance.expovariate(rate)) < began + seconds:
        await asyncio.sleep(max(0.0, now - time.monotonic()))
        asked.append(asyncio.ensure_future(ask()))
    return list(await asyncio.gather(*asked))


async def closed_loop(ask: Ask, n_clients: int, seconds: float) -> list[Outcome]:
    """Each client asks again as soon as it has been answered."""
    over = time.monotonic() + seconds

    async def client() -> list[Outcome]:
        outcomes = []
        while time.monotonic() < over:
            outcomes.append(await ask())
        return outcomes

    return [outcome for outcomes in await asyncio.gather(*(client() for _ in range(n_clients))) for outcome in outcomes]


def tokens_within(outcomes: Sequence[Outcome], began: float, ended: float) -> float:
    """Tokens that came in this time; those of an answer come evenly."""
    total = 0.0
    for outcome in outcomes:
        if outcome.accepted and outcome.ended > outcome.first:
            inside = min(ended, outcome.ended) - max(began, outcome.first)
            total += max(0.0, inside) / (outcome.ended - outcome.first) * outcome.tokens
    return total

"""What every request passes before it is answered: whose it is, whether it may run now, and what it has used.

A Visit goes with each request from its arrival to its end. All that costs it is at those two: nothing is done for a
token.
"""

import asyncio
from collections.abc import Callable, Iterable

from starlette.types import Scope

from openai_server.access.admission import Admission, State, Ticket
from openai_server.access.cors import Cors
from openai_server.access.key_ring import KeyRing
from openai_server.access.keys import ANYBODY, Caller
from openai_server.access.rates import Account, Rates
from openai_server.decode import Usage
from openai_server.errors import APIError, Overloaded

OPEN = frozenset(("/livez", "/readyz", "/health", "/metrics", "/openapi.json"))
"""Paths that need no key: who asks them is a probe, or wants to know how to show one."""
CHARACTERS_PER_TOKEN = 4
"""Roughly, to estimate what the backend has not counted."""


class Gate:
    """`clock` gives seconds from any start."""

    def __init__(
        self, key_ring: KeyRing, admission: Admission, rates: Rates, cors: Cors, *, clock: Callable[[], float]
    ) -> None:
        self.key_ring = key_ring
        self.admission = admission
        self.rates = rates
        self.cors = cors
        self.clock = clock

    def visit(self, scope: Scope) -> "Visit":
        visit = scope["visit"] = Visit(self, scope)
        return visit


def visit_of(scope: Scope) -> "Visit":
    visit: Visit = scope["visit"]
    return visit


class Visit:
    """One request. `headers` are for its answer, whatever that is. Works for its answer inside `async with`."""

    def __init__(self, gate: Gate, scope: Scope) -> None:
        self._gate = gate
        self._scope = scope
        self._account: Account | None = None
        """None: without limits."""
        self._ticket: Ticket | None = None
        self._reserved = 0
        self._prompt_estimate = 0
        self._n_tokens = 0
        self._used = 0
        self.caller: Caller = ANYBODY
        self.headers = gate.cors.headers(scope["headers"])

    def preflight(self) -> dict[str, str] | None:
        """What to answer a browser that asks whether it may ask; None if this is no such question."""
        return self._gate.cors.preflight(self._scope["method"], self._scope["headers"])

    def authenticate(self) -> None:
        """Raises Unauthorized."""
        if self._scope["path"] not in OPEN:
            self.caller = self._gate.key_ring.keys.caller(self._scope["headers"])

    # ---- Requests that work for their answer, in this order

    def count_request(self) -> None:
        """Raises RateLimited."""
        if not self._gate.rates.limited:
            return
        now = self._gate.clock()
        self._account = self._gate.rates.account(self.caller.id, now)
        try:
            self._account.take_request(now)
        finally:
            self.headers |= self._account.headers(now)

    def reserve(self, characters: int, output_tokens: int) -> None:
        """Tokens for so many characters of prompt, and for so many of output. Raises RateLimited."""
        self._prompt_estimate = characters // CHARACTERS_PER_TOKEN
        if self._account is None:
            return
        now = self._gate.clock()
        try:
            self._reserved = self._account.reserve(self._prompt_estimate + output_tokens, now)
        finally:
            self.headers |= self._account.headers(now)

    async def __aenter__(self) -> None:
        """Waits for a place. Raises Overloaded."""
        ticket = self._ticket = Ticket(self.caller.id)
        self._gate.admission.arrive(ticket)
        try:
            if ticket.state is State.WAITING:
                await _decision(ticket)
            if ticket.state is not State.RUNNING:
                raise Overloaded
        except BaseException:
            self._leave()
            raise
        self._used = self._prompt_estimate  # should nobody wait for the end: the backend has read it

    async def __aexit__(self, _: object, error: BaseException | None, __: object) -> None:
        """Pays for what was used."""
        if isinstance(error, APIError) and not self._n_tokens:
            self._used = 0
        self._leave()

    def _leave(self) -> None:
        assert self._ticket is not None
        self._gate.admission.leave(self._ticket)
        if self._account is not None:
            self._account.settle(self._reserved, self._used, self._gate.clock())

    def used(self, tokens: int) -> None:
        self._used = tokens

    def delivered(self, usages: Iterable[Usage | None], n_prompts: int, n_tokens: int) -> None:
        """How far the answers came: what is known of those that are whole, and the tokens of all that were seen."""
        self._n_tokens = n_tokens
        known = [usage for usage in usages if usage is not None]
        self._used = sum(usage.prompt + usage.completion for usage in known)
        if len(known) < n_prompts:
            rest = max(0, n_tokens - sum(usage.completion for usage in known))
            self._used += self._prompt_estimate * (n_prompts - len(known)) // n_prompts + rest


async def _decision(ticket: Ticket) -> None:
    decided = asyncio.get_running_loop().create_future()
    ticket.decided = lambda: None if decided.done() else decided.set_result(None)
    await decided

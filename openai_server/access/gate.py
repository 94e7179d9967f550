"""What every request passes before it is answered: whose it is, whether it may run now, and what it has used.

A Visit goes with each request from its arrival to its end. All that costs it is at those two: nothing is done for a
token.
"""

from collections.abc import Callable, Iterable
from typing import Protocol

from starlette.types import Scope

from openai_server.access.admission import Admission, State, Ticket, Turnover
from openai_server.access.cors import Cors
from openai_server.access.key_ring import KeyRing
from openai_server.access.keys import ANYBODY, Caller
from openai_server.access.rates import Account, Rates
from openai_server.access.turns import decision
from openai_server.api.docs import paths as docs
from openai_server.core.errors import APIError, Overloaded
from openai_server.core.usage import Usage

OPEN = frozenset(("/livez", "/readyz", "/health", "/metrics", "/openapi.json", *docs.FILES))
"""Paths that need no key: who asks them is a probe, or wants to know how to show one."""
CHARACTERS_PER_TOKEN = 4
"""Roughly, to estimate what the backend has not counted."""


class Meter(Protocol):
    """Told of the queue."""

    def admitted(self, n: int) -> None:
        """1 when a request gets a place, -1 when it leaves it."""

    def queued(self, n: int) -> None:
        """1 when a request begins to wait for a place, -1 when it does no more."""

    def waited(self, seconds: float) -> None:
        """Whatever came of it."""


class Gate:
    """`clock` gives seconds from any start. `queue_timeout`: seconds that a request waits for a slot. `most_held`:
    bytes of the bodies of all requests that are not over. For both, 0 is no limit.
    """

    def __init__(
        self,
        key_ring: KeyRing,
        admission: Admission,
        rates: Rates,
        cors: Cors,
        *,
        clock: Callable[[], float],
        queue_timeout: float,
        most_held: int,
        meter: Meter,
    ) -> None:
        self.key_ring = key_ring
        self.admission = admission
        self.turnover = Turnover()
        self.rates = rates
        self.cors = cors
        self.clock = clock
        self.queue_timeout = queue_timeout
        self.most_held = most_held
        self.held = 0
        self._held_by: dict[str, int] = {}
        """Of each caller who holds any."""
        self.meter = meter

    def holds_too_much(self, caller: str, n_bytes: int) -> bool:
        """So many bytes more. When there are too many, only of those callers who have more than their part of them."""
        self.held += n_bytes
        self._held_by[caller] = mine = self._held_by.get(caller, 0) + n_bytes
        return self.held > self.most_held > 0 and mine * len(self._held_by) > self.most_held

    def release(self, caller: str, n_bytes: int) -> None:
        if n_bytes:
            self.held -= n_bytes
            self._held_by[caller] -= n_bytes
            if not self._held_by[caller]:
                del self._held_by[caller]

    def overloaded(self) -> Overloaded:
        return Overloaded(self.turnover.wait(self.admission.waiting))

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
        self._held = 0
        self.caller: Caller = ANYBODY
        self.headers = gate.cors.headers(scope["headers"])

    def preflight(self) -> dict[str, str] | None:
        """What to answer a browser that asks whether it may ask; None if this is no such question."""
        return self._gate.cors.preflight(self._scope["method"], self._scope["headers"])

    def authenticate(self) -> None:
        """Raises Unauthorized."""
        if self._scope["path"] not in OPEN:
            self.caller = self._gate.key_ring.keys.caller(self._scope["headers"])

    def end(self) -> None:
        """It has been answered, or nobody waits for that."""
        self._gate.release(self.caller.id, self._held)
        self._held = 0

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

    def hold(self, n_bytes: int) -> None:
        """Counts more bytes of its body, or of what is decoded from it. Raises Overloaded.

        What is made of a body is about as large, so it counts until the end of the request, not of the body.
        """
        self._held += n_bytes
        if n_bytes and self._gate.holds_too_much(self.caller.id, n_bytes):
            raise self._gate.overloaded()

    @property
    def is_limited(self) -> bool:
        """Whether tokens are counted for this caller, so that `reserve` and `delivered` have an effect."""
        return self._account is not None

    def reserve(self, prompt_tokens: int, output_tokens: int) -> None:
        """Sets aside tokens: an estimate for the prompt, and the most that may be generated. Raises RateLimited."""
        self._prompt_estimate = prompt_tokens
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
                await self._wait(ticket)
            if ticket.state is not State.RUNNING:
                raise self._gate.overloaded()
            self._gate.meter.admitted(1)
        except BaseException:
            self._leave()
            raise
        self._used = self._prompt_estimate  # should nobody wait for the end: the backend has read it

    async def __aexit__(self, _: object, error: BaseException | None, __: object) -> None:
        """Pays for what was used."""
        if isinstance(error, APIError) and not self._n_tokens:
            self._used = 0
        gate = self._gate
        gate.meter.admitted(-1)
        if gate.admission.waiting or gate.turnover.is_measuring:
            gate.turnover.freed(gate.clock(), gate.admission.waiting)
        self._leave()

    async def _wait(self, ticket: Ticket) -> None:
        """Until something is decided, or for as long as it makes sense."""
        gate, since = self._gate, self._gate.clock()
        gate.meter.queued(1)
        try:
            await decision(ticket, gate.queue_timeout)
        finally:
            gate.meter.queued(-1)
            gate.meter.waited(gate.clock() - since)

    def _leave(self) -> None:
        assert self._ticket is not None
        self._gate.admission.leave(self._ticket)
        if self._account is not None:
            self._account.settle(self._reserved, self._used, self._gate.clock())

    def used(self, tokens: int | None) -> None:
        """None: the backend does not count, so the estimate stands."""
        self._used = self._prompt_estimate if tokens is None else tokens

    def delivered(self, usages: Iterable[Usage | None], n_prompts: int, n_tokens: int) -> None:
        """How far the answers came: what is known of those that are whole, and the tokens of all that were seen."""
        self._n_tokens = n_tokens
        if self._account is None:
            return
        known = [usage for usage in usages if usage is not None]
        self._used = sum(usage.prompt + usage.completion for usage in known)
        if len(known) < n_prompts:
            rest = max(0, n_tokens - sum(usage.completion for usage in known))
            self._used += self._prompt_estimate * (n_prompts - len(known)) // n_prompts + rest

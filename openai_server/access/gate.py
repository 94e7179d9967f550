"""Access control of each request: authentication, rates, a slot to run in, and payment for the tokens that it used.

The answer 429 is decided here: RateLimited for a caller's rate (`rates.py`), Overloaded for the slots, the queue
(`admission.py`) and the bytes of all bodies.

A RequestAccess accompanies each request from its arrival to its end. It costs time at those two alone: nothing is done
for a token.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from openai_server.access.admission import Admission, State, Ticket, Turnover
from openai_server.access.cors import Cors
from openai_server.access.key_ring import KeyRing
from openai_server.access.keys import ANYBODY, Caller
from openai_server.access.rates import Account, Rates
from openai_server.access.tier_limits import TierLimits
from openai_server.access.turns import decision
from openai_server.core.errors import APIError, NoFlexCapacity, Overloaded
from openai_server.core.tiers import BATCH, DEFAULT, FLEX, Tier, Urgency
from openai_server.core.usage import Usage

Headers = Sequence[tuple[bytes, bytes]]
"""Names in lower case, and values, as in an ASGI scope."""


class Meter(Protocol):
    """Counts the queue and the slots."""

    def admitted(self, n: int) -> None:
        """1 when a request gets a slot, -1 when it leaves it."""

    def queued(self, n: int, *, in_background: bool) -> None:
        """1 when a request begins to wait for a slot, -1 when it no longer waits."""

    def waited(self, seconds: float) -> None:
        """Time that a request waited for a slot, whether it got one or not. Not called for background work."""


class Gate:
    """`clock` gives seconds from any start. `queue_timeout`: seconds that a request waits for a slot. `max_held`:
    bytes of the bodies of all requests that haven't ended. For both, 0 is no limit.
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
        max_held: int,
        meter: Meter,
        tier_limits: TierLimits,
    ) -> None:
        self.key_ring = key_ring
        self.admission = admission
        self.turnover = Turnover()
        self.rates = rates
        self.cors = cors
        self.clock = clock
        self.queue_timeout = queue_timeout
        self.max_held = max_held
        self.held = 0
        self._held_by: dict[str, int] = {}
        """Bytes held by each caller; callers that hold none are left out."""
        self.meter = meter
        self.tier_limits = tier_limits

    def holds_too_much(self, caller: str, n_bytes: int) -> bool:
        """Counts `n_bytes` more. Above the limit, true only for callers that hold more than their share."""
        self.held += n_bytes
        self._held_by[caller] = mine = self._held_by.get(caller, 0) + n_bytes
        return self.held > self.max_held > 0 and mine * len(self._held_by) > self.max_held

    def release(self, caller: str, n_bytes: int) -> None:
        if n_bytes:
            self.held -= n_bytes
            self._held_by[caller] -= n_bytes
            if not self._held_by[caller]:
                del self._held_by[caller]

    def overloaded(self, tier: Tier = DEFAULT) -> APIError:
        """The error for a request of this tier that gets no slot."""
        if tier.urgency is not Urgency.BACKGROUND:
            return Overloaded(self.turnover.wait(self.admission.waiting_for_any))
        wait = self.turnover.wait(self.admission.waiting)
        return NoFlexCapacity(wait) if tier is FLEX else Overloaded(wait)

    def enter(self, method: str, headers: Headers) -> "RequestAccess":
        """Access of a request that has arrived, which must `end` in any case."""
        return RequestAccess(self, method, headers)

    def enter_as(self, caller: Caller) -> "RequestAccess":
        """Access of work that goes on without its request, which has been counted. It must `end` in any case."""
        access = RequestAccess(self, "", ())
        access.resume(caller)
        return access

    def enter_line(self, caller: Caller) -> "RequestAccess":
        """Access of a line of the caller's batch, which must `end` in any case. Lines run in free slots only, and don't
        count against the caller's rates: a batch must not keep its own owner out."""
        access = RequestAccess(self, "", ())
        access.caller, access.tier = caller, BATCH
        access.is_counted = access.has_client = False
        return access


class RequestAccess:
    """Access state of one request. `headers` go on every response. Inside `async with` the request has a slot."""

    __slots__ = (
        *("_account", "_fairness_id", "_gate", "_held", "_method", "_n_tokens", "_prompt_estimate", "_request_headers"),
        *("_reserved", "_ticket", "_used", "caller", "has_client", "headers", "is_counted", "tier"),
    )

    def __init__(self, gate: Gate, method: str, headers: Headers) -> None:
        self._gate = gate
        self._method = method
        self._request_headers = headers
        self._account: Account | None = None
        """None: no limits apply."""
        self._ticket: Ticket | None = None
        self._fairness_id = ""
        """Slots and turns are shared between these ids if there are no API keys. Clients can choose any, so no limit
        depends on them."""
        self._reserved = 0
        self._prompt_estimate = 0
        self._n_tokens = 0
        self._used = 0
        self._held = 0
        self.caller: Caller = ANYBODY
        self.is_counted = gate.rates.limited
        """Whether `count_request` counts the request, and its tokens."""
        self.has_client = True
        """Whether a client waits for the response."""
        self.tier = DEFAULT
        self.headers = gate.cors.headers(headers)

    @property
    def caller_id(self) -> str:
        return self.caller.id or self._fairness_id

    @property
    def owner(self) -> str:
        return self.caller.id

    def share_as(self, fairness_id: str) -> None:
        self._fairness_id = fairness_id

    def preflight(self) -> dict[str, str] | None:
        """Headers of the response to a browser's preflight request; None if this is another request."""
        return self._gate.cors.preflight(self._method, self._request_headers)

    def authenticate(self) -> None:
        """Sets the caller. Raises Unauthorized."""
        self.caller = self._gate.key_ring.keys.caller(self._request_headers)

    def resume(self, caller: Caller) -> None:
        """Sets the caller, and its account without counting another request."""
        self.caller, self.has_client = caller, False
        if self._gate.rates.limited:
            self._account = self._gate.rates.account(caller.id, self._gate.clock())

    def end(self) -> None:
        """The request has been answered, or its client has left."""
        self._gate.release(self.caller.id, self._held)
        self._held = 0
        if self.tier is not DEFAULT:
            self._gate.tier_limits.give_back(self.caller.id, self.tier, has_client=self.has_client)
            self.tier = DEFAULT

    # ---- Requests that do work, in this order

    def count_request(self) -> None:
        """Raises RateLimited."""
        if not self.is_counted:
            return
        now = self._gate.clock()
        self._account = self._gate.rates.account(self.caller.id, now)
        try:
            self._account.take_request(now)
        finally:
            self.headers |= self._account.headers(now)

    def hold(self, n_bytes: int) -> None:
        """Counts more bytes of its body, or of the values decoded from it. Raises Overloaded.

        The decoded request is about as large as its body, so the bytes count until the end of the request.
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

    def take_tier(self, name: str) -> Tier:
        """Sets the tier in which the request runs if its field `service_tier` is `name`: lines of batches keep theirs.
        Raises NoFlexCapacity."""
        if self.tier is not BATCH:
            self.tier = self._gate.tier_limits.take(self.caller.id, name, has_client=self.has_client)
        return self.tier

    async def __aenter__(self) -> None:
        """Waits for a slot. Raises Overloaded and NoFlexCapacity."""
        ticket = self._ticket = Ticket(self.caller_id, urgency=self.tier.urgency)
        self._gate.admission.arrive(ticket)
        try:
            if ticket.state is State.WAITING:
                await self._wait(ticket)
            if ticket.state is not State.RUNNING:
                raise self._gate.overloaded(self.tier)
            self._gate.meter.admitted(1)
        except BaseException:
            self._leave()
            raise
        self._used = self._prompt_estimate  # in case the client leaves: the backend has read the prompt

    async def __aexit__(self, _: object, error: BaseException | None, __: object) -> None:
        """Gives the slot back and counts the used tokens."""
        if isinstance(error, APIError) and not self._n_tokens:
            self._used = 0
        gate = self._gate
        gate.meter.admitted(-1)
        if gate.admission.waiting or gate.turnover.is_measuring:
            gate.turnover.freed(gate.clock(), gate.admission.waiting_for_any)
        self._leave()

    async def _wait(self, ticket: Ticket) -> None:
        """Waits until the ticket is admitted or refused, or for `queue_timeout` seconds."""
        gate, since = self._gate, self._gate.clock()
        in_background = ticket.urgency is Urgency.BACKGROUND
        gate.meter.queued(1, in_background=in_background)
        try:
            await decision(ticket, gate.queue_timeout)
        finally:
            gate.meter.queued(-1, in_background=in_background)
            if not in_background:
                gate.meter.waited(gate.clock() - since)

    def _leave(self) -> None:
        assert self._ticket is not None
        self._gate.admission.leave(self._ticket)
        if self._account is not None:
            self._account.settle(self._reserved, self._used, self._gate.clock())

    def used(self, tokens: int | None) -> None:
        """Sets the number of tokens to pay for; None, where the backend doesn't count, is the estimate."""
        self._used = self._prompt_estimate if tokens is None else tokens

    def delivered(self, usages: Iterable[Usage | None], n_prompts: int, n_tokens: int) -> None:
        """Sets how far the answers came: usage of the complete ones, and the output tokens of all."""
        self._n_tokens = n_tokens
        if self._account is None:
            return
        known = [usage for usage in usages if usage is not None]
        self._used = sum(usage.prompt + usage.completion for usage in known)
        if len(known) < n_prompts:
            rest = max(0, n_tokens - sum(usage.completion for usage in known))
            self._used += self._prompt_estimate * (n_prompts - len(known)) // n_prompts + rest

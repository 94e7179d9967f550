"""The pool of backends: picks the one that gets a request, and retries elsewhere when it fails.

`catalog.py` passes the members that may get a request: all of them have its model, with the same inputs and parameters.
The request goes to the usable member with the fewest running requests; a generation goes to one that likely has the
beginning of its prompt (`affinity.py`). If it fails before the first token for a reason that is not in the request, it
is retried once on each of the other members.
"""

import asyncio
import logging
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

from openai_server.backends.affinity import Affinity, Prefix, prefix_of
from openai_server.backends.calls import Backend
from openai_server.backends.dialects.base import Call
from openai_server.backends.mailbox import Cancel, Mailbox
from openai_server.backends.outages import Outages
from openai_server.backends.shared_stream import unnumbered
from openai_server.core.answer import Answer
from openai_server.core.errors import BackendError
from protos import contract
from protos.grpc_predict_v2_pb2 import ModelInferRequest, ModelInferResponse

log = logging.getLogger(__name__)
T = TypeVar("T")

EVERY_ADDRESS = "dns:///"
"""Prefix of an endpoint's name: each of the name's addresses is a server of its own."""
RESOLVE_INTERVAL = 5.0
"""Seconds between lookups of a name's addresses."""
GRACE = 600.0
"""Seconds that running requests may take after the address of their server is gone."""
UNAVAILABLE_STATUSES = ("UNAVAILABLE", "CANCELLED")
"""Statuses of calls to a server that can't be reached or shuts down."""
READY_WAIT = 0.5
"""Seconds to wait for a server's readiness before the next server is checked at the same time."""


class Address(NamedTuple):
    target: str
    name: str = ""
    """The host with this address; empty if `target` is the endpoint itself."""


@dataclass(slots=True, eq=False)
class Member:
    """One server: its address, and the current connection to it."""

    endpoint: int
    """Position of its endpoint on the command line."""
    address: Address
    backend: Backend
    turn: int = 0
    """Number of the last request that it got, counted over all members; 0 before the first one."""
    watch: "asyncio.Task[None] | None" = field(default=None, repr=False)


class Listener:
    """Gets the events of members. Each method is called on the event loop, and must not wait."""

    def joined(self, member: Member) -> None: ...

    def left(self, member: Member) -> None:
        """The member's address is gone. Its running requests continue."""

    def ready(self, member: Member) -> None:
        """The member has become usable."""

    def lost(self, member: Member) -> None:
        """The connection is lost. Another server may replace the old one at this address."""

    def failed(self, member: Member, model: str, error: BackendError) -> None:
        """A call for the model has failed."""


Open = Callable[[Address], Backend]
Renewals = Callable[[Callable[[], None]], Coroutine[Any, Any, None]]
"""Calls its argument each time all backends must be opened again. Runs until cancelled."""
Resolve = Callable[[str], Awaitable[list[Address]]]


async def resolve(endpoint: str) -> list[Address]:
    """The addresses of the servers at `host:port`. Raises OSError."""
    host, _, port = endpoint.rpartition(":")
    host = host.strip("[]")
    if host.lower() == "localhost":  # one server, which may listen on only one of the two addresses: gRPC tries both
        return [Address(endpoint, host)]
    found = await asyncio.get_running_loop().getaddrinfo(host, int(port), type=socket.SOCK_STREAM)
    # A server may have an address of each family; the system lists the preferred family first.
    ips = dict.fromkeys(str(address[0]) for family, *_, address in found if family == found[0][0])
    return [Address(f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}", host) for ip in ips]


class Pool:
    """All backends. `open` creates the backend of an address; the pool closes it. Must be created in the event loop
    that uses it. `prefix_affinity`: whether prompts go to members that likely have their beginning."""

    def __init__(
        self,
        endpoints: Sequence[str],
        open: Open,
        *,
        resolve: Resolve = resolve,
        renewals: Renewals | None = None,
        prefix_affinity: bool = True,
    ) -> None:
        self.listener = Listener()
        self.members: tuple[Member, ...] = ()
        """In the order of their endpoints, and within an endpoint in the order of their addresses."""
        self._open = open
        self._renewals = renewals
        self._resolve = resolve
        self._names = {
            place: endpoint.removeprefix(EVERY_ADDRESS)
            for place, endpoint in enumerate(endpoints)
            if endpoint.startswith(EVERY_ADDRESS)
        }
        """Names to resolve, by the position of their endpoint."""
        self._unresolved = set(self._names)
        """Positions of the names that have not been looked up yet, and that requests wait for."""
        self._outages = {
            name: Outages(log, f"can't resolve {name}", f"{name} is resolved again", time.monotonic, is_there=True)
            for name in self._names.values()
        }
        self._resolved = asyncio.Event()
        if not self._unresolved:
            self._resolved.set()
        self._affinity = Affinity() if prefix_affinity else None
        self._n_requests = 0
        self._is_watching = False
        self._ended: set[asyncio.Task[None]] = set()
        """Tasks that close the connections of members that have left or were renewed."""
        for place, endpoint in enumerate(endpoints):
            if place not in self._names:
                self._join(place, Address(endpoint))

    async def close(self) -> None:
        for task in self._ended:
            task.cancel()
        await asyncio.gather(*(member.backend.close() for member in self.members))

    # ---- Members

    async def resolved(self, timeout: float) -> None:
        """Waits until every name has been looked up once, but at most `timeout` seconds if there is a member.

        Raises BackendError if there is none then.
        """
        try:
            await asyncio.wait_for(self._resolved.wait(), timeout if self.members else None)
        except TimeoutError:
            self._unresolved.clear()
            self._resolved.set()
        if not self.members:
            raise BackendError("UNAVAILABLE", "no address is known for any backend")

    @property
    def unresolved(self) -> Collection[int]:
        """Positions of the endpoints whose names have not been looked up yet, and that requests wait for."""
        return self._unresolved

    async def watch(self) -> None:
        """Keeps all members connected, and reports their events to the listener. Runs until cancelled."""
        self._is_watching = True
        for member in self.members:
            self._begin_watch(member)
        work = [asyncio.create_task(self._follow(place, name)) for place, name in self._names.items()]
        if self._renewals:
            work.append(asyncio.create_task(self._renewals(self.renew)))
        try:
            await asyncio.gather(*work)
            await asyncio.Event().wait()
        finally:
            self._is_watching = False
            tasks = [*work, *(member.watch for member in self.members if member.watch is not None)]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _follow(self, place: int, name: str) -> None:
        while True:
            await self._look_up(place, name)
            self._unresolved.discard(place)
            if not self._unresolved:
                self._resolved.set()
            await asyncio.sleep(RESOLVE_INTERVAL)

    async def _look_up(self, place: int, name: str) -> None:
        """Updates the members of a name. If the lookup fails, the name keeps its members."""
        try:
            found = await self._resolve(name)
        except (OSError, UnicodeError) as error:  # UnicodeError: not a valid name
            self._outages[name].lost(str(error))
            return
        self._outages[name].back()
        before = {member.address: member for member in self.members if member.endpoint == place}
        for address in found:
            if address not in before:
                self._join(place, address)
        for address, member in before.items():
            if address not in found:
                self._leave(member)

    def _join(self, place: int, address: Address) -> None:
        member = Member(place, address, self._open(address))
        self.members = tuple(sorted((*self.members, member), key=_place))
        self.listener.joined(member)
        if self._is_watching:
            self._begin_watch(member)

    def _leave(self, member: Member) -> None:
        self.members = tuple(other for other in self.members if other is not member)
        self._end(member)
        self.listener.left(member)

    def renew(self) -> None:
        """Opens all backends again. Running requests continue on the old connections."""
        for member in self.members:
            self._end(member)
            member.backend = self._open(member.address)
            if self._is_watching:
                self._begin_watch(member)

    def _begin_watch(self, member: Member) -> None:
        member.watch = asyncio.create_task(
            member.backend.watch(lambda: self.listener.ready(member), lambda: self.listener.lost(member))
        )

    def _end(self, member: Member) -> None:
        if member.watch is not None:
            member.watch.cancel()
        closing = asyncio.create_task(member.backend.close(GRACE))
        self._ended.add(closing)
        closing.add_done_callback(self._ended.discard)

    # ---- Requests. `members` are those that may get the request; at least one

    def _pick(self, members: Sequence[Member], tried: Collection[Member] = (), prefix: Prefix = ()) -> Member | None:
        """The member that gets the request; None if all were tried. Picks an unusable one if there is no other."""
        untried = [member for member in members if member not in tried]
        member = self._likely_holder(untried, prefix) or min(untried, key=load, default=None)
        if member is not None:
            self._n_requests += 1
            member.turn = self._n_requests
        return member

    def _likely_holder(self, members: Sequence[Member], prefix: Prefix) -> Member | None:
        """The usable member that likely has the prefix in its cache; None if there is no choice, or no prefix."""
        if not prefix or self._affinity is None:
            return None
        usable = {member.address.target: member for member in members if member.backend.usable}
        if len(usable) < 2:
            return None
        running = {address: member.backend.n_running for address, member in usable.items()}
        return usable[self._affinity.choose(prefix, running)]

    def _prefix(self, call: Call, members: Sequence[Member]) -> Prefix:
        return prefix_of(call) if self._affinity is not None and len(members) > 1 else ()

    def _next_member(
        self, error: BackendError, model: str, members: Sequence[Member], tried: list[Member], prefix: Prefix = ()
    ) -> Member | None:
        """The member to retry on after the last of those tried has failed. If there is none, sets `error.tried`."""
        self.listener.failed(tried[-1], model, error)
        if error.status in UNAVAILABLE_STATUSES:
            tried[-1].backend.recheck_readiness()
        if not may_succeed_elsewhere(error):
            return None
        following = self._pick(members, tried, prefix)
        if following is None:
            error.tried = frozenset((member, model) for member in tried)
        else:
            log.info("%s: %s; trying %s", tried[-1].backend.target, error.message, following.backend.target)
        return following

    async def ready(self, model: str, version: str, members: Sequence[Member]) -> bool:
        """Whether any member would answer a request for the model. A silent member doesn't delay the other checks."""
        waiting: set[asyncio.Task[bool]] = set()
        unchecked = sorted(members, key=load)
        try:
            while unchecked or waiting:
                if unchecked:
                    waiting.add(asyncio.create_task(self._is_ready(unchecked.pop(0), model, version)))
                timeout = READY_WAIT if unchecked else None
                done, waiting = await asyncio.wait(waiting, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
                if any(task.result() for task in done):
                    return True
            return False
        finally:
            for task in waiting:
                task.cancel()

    async def _is_ready(self, member: Member, model: str, version: str) -> bool:
        try:
            return await member.backend.ready(model, version)
        except BackendError as error:
            log.debug("%s is not ready: %s: %s", member.backend.target, error.status, error.message)
            self.listener.failed(member, model, error)
            if error.status in UNAVAILABLE_STATUSES:
                member.backend.recheck_readiness()
            return False

    async def answer(self, call: Call, members: Sequence[Member]) -> Answer:
        """The whole answer, of a dialect that reads whole answers. Raises BackendError."""
        prefix = self._prefix(call, members)
        return await self._with_retries(_name(call), members, lambda backend: backend.answer(call), prefix)

    async def infer(self, request: ModelInferRequest, members: Sequence[Member], model: str = "") -> ModelInferResponse:
        """`model`: its name in the catalog; empty: as in the request. Raises BackendError."""
        name = model or request.model_name
        return await self._with_retries(name, members, lambda backend: backend.infer(request))

    async def _with_retries(
        self,
        model: str,
        members: Sequence[Member],
        call: Callable[[Backend], Awaitable[T]],
        prefix: Prefix = (),
    ) -> T:
        """The result of `call` on the first member that doesn't fail, beginning with the one that `_pick` returns."""
        member, tried = self._pick(members, prefix=prefix), list[Member]()
        while True:
            assert member is not None
            tried.append(member)
            try:
                return await call(member.backend)
            except BackendError as error:
                if (member := self._next_member(error, model, members, tried, prefix)) is None:
                    raise

    @asynccontextmanager
    async def stream(
        self, calls: Sequence[Call], members: Sequence[Member], ping_interval: float
    ) -> AsyncIterator[Mailbox]:
        """Streams the answers to these calls. Leaving the block cancels the running ones."""
        tried: dict[int, list[Member]] = {}

        def start(k: int, mailbox: Mailbox) -> Cancel:
            member = self._pick(members, prefix=self._prefix(calls[k], members))
            assert member is not None
            tried[k] = [member]
            return member.backend.start(calls[k], k, mailbox)

        def retry(k: int, mailbox: Mailbox, error: BackendError) -> Cancel | None:
            request, prefix = calls[k].request, self._prefix(calls[k], members)
            if (member := self._next_member(error, _name(calls[k]), members, tried[k], prefix)) is None:
                return None
            tried[k].append(member)
            unnumbered(request)
            return member.backend.start(calls[k], k, mailbox)

        mailbox = Mailbox(len(calls), start, ping_interval=ping_interval, retry=retry)
        try:
            yield mailbox
        finally:
            mailbox.close()


def _name(call: Call) -> str:
    """The name of the model in the catalog."""
    return call.model or call.request.model_name


def _place(member: Member) -> tuple[int, str]:
    return member.endpoint, member.address.target


def load(member: Member) -> tuple[bool, int, int]:
    """Sort key: the least member gets the next request. Ties go to the member that got a request least recently."""
    backend = member.backend
    return not backend.usable, backend.n_running, member.turn


def may_succeed_elsewhere(error: BackendError) -> bool:
    """Whether another server may answer a request that failed with this error."""
    return error.status in (*UNAVAILABLE_STATUSES, "NOT_FOUND") or error.reason == contract.REASON_QUEUE_FULL

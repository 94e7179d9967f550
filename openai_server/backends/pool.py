"""The servers behind the sidecar: which of them gets a request, and what happens to it when that server dies.

Which models a server has is up to `catalog.py`, which names the members that may get a request: all of them have its
model, with the same inputs and parameters. The request goes to the usable one with the fewest running requests. If it
is refused for reasons that are not its own before the first token has come, it goes to each of the others once.
"""

import asyncio
import logging
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

from openai_server.backends.calls import Backend, Read
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
"""Before a name: each of its addresses is a server of its own."""
RESOLVE_INTERVAL = 5.0
"""Seconds between looks at the addresses of names."""
GRACE = 600.0
"""Seconds that running requests of a server get whose address is gone."""
AWAY_STATUSES = ("UNAVAILABLE", "CANCELLED")
"""Statuses of calls to a server that is not there, or shuts down."""
READY_WAIT = 0.5
"""Seconds until a probe looks at the next server, too, while the one before is silent."""


class Address(NamedTuple):
    target: str
    name: str = ""
    """The host that it was found for."""


@dataclass(slots=True, eq=False)
class Member:
    """One server: its address, and the connection to it at the moment."""

    endpoint: int
    """Position of its endpoint on the command line."""
    address: Address
    backend: Backend
    turn: int = 0
    """Number of the last request that it got; 0 before the first one."""
    watch: "asyncio.Task[None] | None" = field(default=None, repr=False)


class Listener:
    """What happens to members. Each method is called on the event loop, and must not wait."""

    def joined(self, member: Member) -> None: ...

    def left(self, member: Member) -> None:
        """Its address is gone. Running requests go on."""

    def ready(self, member: Member) -> None:
        """It has become usable."""

    def lost(self, member: Member) -> None:
        """Its connection is lost: another server may take the place of the one that is gone."""

    def failed(self, member: Member, model: str, error: BackendError) -> None:
        """A call for the model has failed."""


Open = Callable[[Address], Backend]
Renewals = Callable[[Callable[[], None]], Coroutine[Any, Any, None]]
"""Calls back whenever backends have to be opened anew. Runs until cancelled."""
Resolve = Callable[[str], Awaitable[list[Address]]]


async def resolve(endpoint: str) -> list[Address]:
    """`host:port` → an address for each server. Raises OSError."""
    host, _, port = endpoint.rpartition(":")
    host = host.strip("[]")
    if host.lower() == "localhost":  # one server, which may listen on one of the two addresses alone: gRPC tries both
        return [Address(endpoint, host)]
    found = await asyncio.get_running_loop().getaddrinfo(host, int(port), type=socket.SOCK_STREAM)
    # A server has an address of each family; the first family is the one that the system prefers.
    hosts = dict.fromkeys(str(address[0]) for family, *_, address in found if family == found[0][0])
    return [Address(f"[{one}]:{port}" if ":" in one else f"{one}:{port}", host) for one in hosts]


class Pool:
    """Made in the event loop that uses it. `open` makes the backend of an address; they are closed here."""

    def __init__(
        self, endpoints: Sequence[str], open: Open, *, resolve: Resolve = resolve, renewals: Renewals | None = None
    ) -> None:
        self.listener = Listener()
        self.members: tuple[Member, ...] = ()
        """In the order of their endpoints; those of one endpoint by their addresses."""
        self._open = open
        self._renewals = renewals
        self._resolve = resolve
        self._names = {
            place: endpoint.removeprefix(EVERY_ADDRESS)
            for place, endpoint in enumerate(endpoints)
            if endpoint.startswith(EVERY_ADDRESS)
        }
        """By position of the endpoint."""
        self._unresolved = set(self._names)
        """Those that have not been looked up yet, and are waited for."""
        self._outages = {
            name: Outages(log, f"can't resolve {name}", f"{name} is resolved again", time.monotonic, is_there=True)
            for name in self._names.values()
        }
        self._resolved = asyncio.Event()
        if not self._unresolved:
            self._resolved.set()
        self._n_requests = 0
        self._is_watching = False
        self._ended: set[asyncio.Task[None]] = set()
        """Watches and connections of members that left, as long as they end."""
        for place, endpoint in enumerate(endpoints):
            if place not in self._names:
                self._join(place, Address(endpoint))

    async def close(self) -> None:
        for task in self._ended:
            task.cancel()
        await asyncio.gather(*(member.backend.close() for member in self.members))

    # ---- Which servers there are

    async def resolved(self, timeout: float) -> None:
        """Waits until every name has been looked up once; no longer than `timeout` seconds if there are other members.

        Raises BackendError if no server is known.
        """
        try:
            await asyncio.wait_for(self._resolved.wait(), timeout if self.members else None)
        except TimeoutError:
            self._unresolved.clear()
            self._resolved.set()
        if not self.members:
            raise BackendError("UNAVAILABLE", "no address is known of any backend")

    @property
    def unresolved(self) -> Collection[int]:
        """Positions of the endpoints whose names have not been looked up yet, and are waited for."""
        return self._unresolved

    async def watch(self) -> None:
        """Keeps all connected, and tells the listener what happens to them. Runs until cancelled."""
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
        """A name without addresses keeps those it had: who looks after names may be away for a moment."""
        try:
            found = await self._resolve(name)
        except (OSError, UnicodeError) as error:  # the latter of what can be no name
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
        """All backends are opened anew. What runs goes on, on the old connections."""
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

    # ---- Which of them gets a request. `members` are those that may; at least one.

    def _pick(self, members: Sequence[Member], tried: Collection[Member] = ()) -> Member | None:
        """None: all were tried. Any is better than none, be it unusable."""
        member = min((untried for untried in members if untried not in tried), key=load, default=None)
        if member is not None:
            self._n_requests += 1
            member.turn = self._n_requests
        return member

    def _another(
        self, error: BackendError, model: str, members: Sequence[Member], tried: list[Member]
    ) -> Member | None:
        """Which may answer what the last one of those that were tried did not. The error learns who gave it."""
        self.listener.failed(tried[-1], model, error)
        if error.status in AWAY_STATUSES:
            tried[-1].backend.recheck_readiness()
        if not may_pass(error):
            return None
        another = self._pick(members, tried)
        if another is None:
            error.tried = frozenset((member, model) for member in tried)
        else:
            log.info("%s: %s; trying %s", tried[-1].backend.target, error.message, another.backend.target)
        return another

    async def ready(self, model: str, members: Sequence[Member]) -> bool:
        """Whether any of them would answer a request for the model. One that is silent does not hold up the others."""
        waiting: set[asyncio.Task[bool]] = set()
        unasked = sorted(members, key=load)
        try:
            while unasked or waiting:
                if unasked:
                    waiting.add(asyncio.create_task(self._is_ready(unasked.pop(0), model)))
                timeout = READY_WAIT if unasked else None
                done, waiting = await asyncio.wait(waiting, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
                if any(task.result() for task in done):
                    return True
            return False
        finally:
            for task in waiting:
                task.cancel()

    async def _is_ready(self, member: Member, model: str) -> bool:
        try:
            return await member.backend.ready(model)
        except BackendError as error:
            log.debug("%s is not ready: %s: %s", member.backend.target, error.status, error.message)
            self.listener.failed(member, model, error)
            if error.status in AWAY_STATUSES:
                member.backend.recheck_readiness()
            return False

    async def answer(self, request: ModelInferRequest, members: Sequence[Member], n: int, read: Read) -> Answer:
        """The whole answer to a generation of `n` choices; `read` is the dialect's. Raises BackendError."""
        return await self._on_one(request, members, lambda backend: backend.answer(request, n, read))

    async def infer(self, request: ModelInferRequest, members: Sequence[Member]) -> ModelInferResponse:
        """Raises BackendError."""
        return await self._on_one(request, members, lambda backend: backend.infer(request))

    async def _on_one(
        self, request: ModelInferRequest, members: Sequence[Member], call: Callable[[Backend], Awaitable[T]]
    ) -> T:
        """The result of `call` on the first of them that doesn't fail, the least busy one first."""
        member, tried = self._pick(members), list[Member]()
        while True:
            assert member is not None
            tried.append(member)
            try:
                return await call(member.backend)
            except BackendError as error:
                if (member := self._another(error, request.model_name, members, tried)) is None:
                    raise

    @asynccontextmanager
    async def stream(
        self, requests: Sequence[ModelInferRequest], members: Sequence[Member], n: int, ping_interval: float
    ) -> AsyncIterator[Mailbox]:
        """The answers to these requests, each for `n` choices, as they grow. Leaving cancels what still runs."""
        tried: dict[int, list[Member]] = {}

        def start(k: int, mailbox: Mailbox) -> Cancel:
            member = self._pick(members)
            assert member is not None
            tried[k] = [member]
            return member.backend.start(requests[k], n, k, mailbox)

        def retry(k: int, mailbox: Mailbox, error: BackendError) -> Cancel | None:
            if (member := self._another(error, requests[k].model_name, members, tried[k])) is None:
                return None
            tried[k].append(member)
            return member.backend.start(unnumbered(requests[k]), n, k, mailbox)

        mailbox = Mailbox(len(requests), start, ping_interval=ping_interval, retry=retry)
        try:
            yield mailbox
        finally:
            mailbox.close()


def _place(member: Member) -> tuple[int, str]:
    return member.endpoint, member.address.target


def load(member: Member) -> tuple[bool, int, int]:
    """The member with the least gets the next request; among equals, the one that has waited the longest."""
    backend = member.backend
    return not backend.usable, backend.n_running, member.turn


def may_pass(error: BackendError) -> bool:
    """Whether another server may answer what this error is the answer to."""
    return error.status in (*AWAY_STATUSES, "NOT_FOUND") or error.reason == contract.REASON_QUEUE_FULL

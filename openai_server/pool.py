"""The servers behind the sidecar: which one gets a request, and what happens to it when that one dies.

All serve the same models. A request goes to the usable server with the fewest running ones, and if it is refused for
reasons that are not its own before the first token has come, to each of the others once.
"""

import asyncio
import logging
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, NamedTuple, TypeVar

from openai_server.backend import Backend
from openai_server.errors import BackendError
from openai_server.mailbox import Cancel, Mailbox
from openai_server.multiplex import unnumbered
from openai_server.outages import Outages
from protos import contract
from protos.grpc_predict_v2_pb2 import ModelInferRequest, ModelInferResponse

log = logging.getLogger(__name__)

EVERY_ADDRESS = "dns:///"
"""Before a name: each of its addresses is a server of its own."""
RESOLVE_INTERVAL = 5.0
"""Seconds between looks at the addresses of names."""
GRACE = 600.0
"""Seconds that running requests of a server get whose address is gone."""
AWAY = ("UNAVAILABLE", "CANCELLED")
"""Statuses of calls to a server that is not there, or shuts down."""
T = TypeVar("T")


class Address(NamedTuple):
    target: str
    name: str = ""
    """The host that it was found for."""


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
        self._open = open
        self._renewals = renewals
        self._resolve = resolve
        self._names = [endpoint.removeprefix(EVERY_ADDRESS) for endpoint in endpoints if _is_name(endpoint)]
        self._backends = {
            Address(endpoint): open(Address(endpoint)) for endpoint in endpoints if not _is_name(endpoint)
        }
        """The one that got a request last stands last: where several are equal, they take turns."""
        self._resolved: dict[str, list[Address]] = {}
        self._outages = {
            name: Outages(log, f"can't resolve {name}", f"{name} is resolved again", time.monotonic, is_there=True)
            for name in self._names
        }
        self._looked = asyncio.Event()
        """All names have been looked up once."""
        self._renewed = asyncio.Event()
        self._watches: dict[Address, asyncio.Task[None]] = {}
        self._closing: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        for task in self._closing:
            task.cancel()
        await asyncio.gather(*(backend.close() for backend in self._backends.values()))

    # ---- Who there is

    async def watch(self, lost: Callable[[], None]) -> None:
        """Keeps all connected, and calls `lost` whenever one stops being so. Runs until cancelled."""
        renewals = asyncio.create_task(self._renewals(self.renew)) if self._renewals else None
        try:
            while True:
                for name in self._names:
                    await self._look_up(name)
                self._looked.set()
                for address, backend in self._backends.items():
                    if address not in self._watches:
                        self._watches[address] = asyncio.create_task(backend.watch(lost))
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._renewed.wait(), RESOLVE_INTERVAL)
                self._renewed.clear()
        finally:
            if renewals is not None:
                renewals.cancel()
            for watch in self._watches.values():
                watch.cancel()
            await asyncio.gather(*self._watches.values(), return_exceptions=True)

    async def _look_up(self, name: str) -> None:
        """A name without addresses keeps those it had: who looks after names may be away for a moment."""
        try:
            found = await self._resolve(name)
        except (OSError, UnicodeError) as error:  # the latter of what can be no name
            self._outages[name].lost(str(error))
            return
        self._outages[name].back()
        before, self._resolved[name] = self._resolved.get(name, []), found
        for address in found:
            if address not in self._backends:
                self._backends[address] = self._open(address)
        for address in before:
            if address not in found:
                self._leave(address)

    def renew(self) -> None:
        """All backends are opened anew. What runs goes on, on the old connections."""
        for address in list(self._backends):
            self._leave(address)
            self._backends[address] = self._open(address)
        self._renewed.set()

    def _leave(self, address: Address) -> None:
        if watch := self._watches.pop(address, None):
            watch.cancel()
        closing = asyncio.create_task(self._backends.pop(address).close(GRACE))
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    # ---- Who gets a request

    async def _some(self) -> None:
        """Raises BackendError if no server is known."""
        if self._names:
            await self._looked.wait()
        if not self._backends:
            raise BackendError("UNAVAILABLE", "no address is known of any backend")

    def _pick(self, tried: Collection[Backend] = ()) -> Backend | None:
        """None: all that make sense were tried. The first time, any is better than none."""
        left = [address for address, backend in self._backends.items() if backend not in tried]
        usable = [address for address in left if self._backends[address].usable]
        if not (candidates := usable or left):
            return None
        address = min(candidates, key=lambda address: self._backends[address].n_running)
        backend = self._backends[address] = self._backends.pop(address)
        return backend

    def _again(self, error: BackendError, tried: list[Backend]) -> Backend | None:
        """Who else may answer what the last one that was tried did not. One that is away is put under doubt."""
        if error.status in AWAY:
            tried[-1].doubt()
        elif error.reason != contract.REASON_QUEUE_FULL:
            return None
        other = self._pick(tried)
        if other is not None:
            log.info("%s: %s; trying %s", tried[-1].target, error.message, other.target)
        return other

    async def _ask(self, call: Callable[[Backend], Awaitable[T]]) -> T:
        await self._some()
        backend = self._pick()
        tried: list[Backend] = []
        while True:
            assert backend is not None
            tried.append(backend)
            try:
                return await call(backend)
            except BackendError as error:
                if (backend := self._again(error, tried)) is None:
                    raise

    # ---- What a backend does. Each raises BackendError.

    async def ready(self, model: str) -> bool:
        """Whether any is."""

        async def ask(backend: Backend) -> bool:
            if not await backend.ready(model):
                raise BackendError("UNAVAILABLE", "not ready")
            return True

        return await self._ask(ask)

    async def models(self) -> list[str]:
        return await self._ask(lambda backend: backend.models())

    async def inputs(self, model: str) -> frozenset[str]:
        return await self._ask(lambda backend: backend.inputs(model))

    async def parameters(self, model: str) -> dict[str, str]:
        return await self._ask(lambda backend: backend.parameters(model))

    async def infer(self, request: ModelInferRequest) -> ModelInferResponse:
        return await self._ask(lambda backend: backend.infer(request))

    @asynccontextmanager
    async def stream(self, requests: Sequence[ModelInferRequest], n: int, patience: float) -> AsyncIterator[Mailbox]:
        """The answers to these requests, each for `n` choices, as they grow. Leaving cancels what still runs."""
        await self._some()
        tried: dict[int, list[Backend]] = {}

        def start(k: int, mailbox: Mailbox) -> Cancel:
            backend = self._pick()
            assert backend is not None
            tried[k] = [backend]
            return backend.start(requests[k], n, k, mailbox)

        def retry(k: int, mailbox: Mailbox, error: BackendError) -> Cancel | None:
            if (backend := self._again(error, tried[k])) is None:
                return None
            tried[k].append(backend)
            return backend.start(unnumbered(requests[k]), n, k, mailbox)

        mailbox = Mailbox(len(requests), start, patience=patience, retry=retry)
        try:
            yield mailbox
        finally:
            mailbox.close()


def _is_name(endpoint: str) -> bool:
    return endpoint.startswith(EVERY_ADDRESS)

"""The models of one backend: their names, and their metadata.

They are looked up when the backend is ready, and kept until newer results arrive. Two events lead to new lookups:

- The connection is lost: everything is dropped, because another backend may replace the one that is gone.
- A call fails with NOT_FOUND or UNAVAILABLE: everything is looked up again in the background, and stays in use
  meanwhile.
"""

import asyncio
import logging
import sys
import time
from collections.abc import Callable, Container, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import Context
from dataclasses import dataclass
from functools import partial
from typing import Any

from anyserve_common import logs
from openai_server.backends.dialects.anyserve.encode import EVERYTHING
from openai_server.backends.dialects.base import CHATML_BY_DEFAULT, DEFAULT_TEMPLATE
from openai_server.backends.model_settings import NO_SETTINGS, ModelSettings
from openai_server.backends.pool import UNAVAILABLE_STATUSES, Member
from openai_server.core.context_length import is_number
from openai_server.core.errors import BackendError, Unavailable
from protos.contract import EXTENSIONS, TASK_GENERATE

log = logging.getLogger(__name__)

Lookup = asyncio.Task[None]

LOOKUP_INTERVAL = 1.0
"""Seconds between two lookups for the same reason: unknown names, or errors of calls."""
MEMORY_SECONDS = 600.0
"""Seconds for which the models of a backend that is gone are remembered: requests for them get status 503, not 404."""


@dataclass(frozen=True, slots=True)
class Metadata:
    """A backend's metadata for a model."""

    input_names: Container[str]
    """Names of its input tensors."""
    parameters: Mapping[str, str]
    """Values of contract.CONFIG_PARAMETERS, completed by ModelSettings and with DEFAULT_TEMPLATE; absent is unknown."""

    @property
    def tasks(self) -> list[str]:
        """Tasks that the model supports; only generation if the backend doesn't report them."""
        return self.parameters.get("tasks", TASK_GENERATE).split(",")

    @property
    def context_length(self) -> int | None:
        """Tokens; None is unknown."""
        length = self.parameters.get("context_length", "")
        return int(length) if is_number(length) else None

    def differences(self, other: "Metadata") -> list[str]:
        """Names of the values that differ, without the time at which the model was loaded."""
        names = {*self.parameters, *other.parameters} - {"loaded_at"}
        found = sorted(name for name in names if self.parameters.get(name) != other.parameters.get(name))
        return found if self.input_names == other.input_names else ["inputs", *found]


class Inventory:
    """The models of one backend. `served` are the models of a backend that has no RepositoryIndex. `changed` is called
    with the name of a model whose metadata has changed, and with None when the list has. `clock` returns seconds from
    any start. `settings` are the operator's."""

    def __init__(
        self,
        member: Member,
        served: Sequence[str],
        changed: Callable[[str | None], None],
        clock: Callable[[], float] = time.monotonic,
        settings: ModelSettings = NO_SETTINGS,
    ) -> None:
        self.member = member
        self.names: tuple[str, ...] = ()
        """Names of the models that are ready, in the backend's order; empty if that is unknown."""
        self.models: dict[str, Metadata] = {}
        """Metadata of these models, as far as known, by name."""
        self.tried = False
        """Whether a lookup of the list has ended."""
        self.awaited = True
        """Whether the default model may still depend on its first list: true until a lookup has ended, or until a
        request has waited long enough for it."""
        self._served = tuple(served)
        self._changed = changed
        self._clock = clock
        self._settings = settings
        self._last_names: tuple[str, ...] = ()
        self._last_until = float("-inf")
        self._lookups: dict[str | None, Lookup] = {}
        """Lookups in progress by model, None for the list. All that wait for the same lookup share it."""
        self._filling: asyncio.Task[None] | None = None
        self._renewal: asyncio.Task[None] | None = None
        self._outdated = False
        """Whether a call has failed since everything was looked up."""

    def forget(self) -> None:
        """Drops everything. Lookups in progress still return their results, which are not kept."""
        self._remember()
        names, self.names, self.models = list(self.models), (), {}
        self._lookups = {}
        self.close()
        for name in (*names, None):
            self._changed(name)

    @property
    def remembered(self) -> tuple[str, ...]:
        """The last list of a backend that is gone, or that no longer lists any models; otherwise empty."""
        return self._last_names if not self.names and self._clock() < self._last_until else ()

    def _remember(self) -> None:
        if self.names:
            self._last_names, self._last_until = self.names, self._clock() + MEMORY_SECONDS

    def close(self) -> None:
        """Ends the background tasks."""
        self._outdated = False
        for task in (self._filling, self._renewal):
            if task is not None:
                task.cancel()
        self._filling = self._renewal = None

    def drop(self, name: str) -> None:
        """Drops the metadata of a model that the backend lists but doesn't have."""
        if self.models.pop(name, None) is not None:
            self._changed(name)

    # ---- In the background

    def renew(self) -> None:
        """Looks everything up again in the background, and retries if that fails."""
        self._outdated = True
        if self._renewal is None or self._renewal.done():
            self._renewal = asyncio.create_task(self._renew(), context=Context())  # it outlives this request

    async def _renew(self) -> None:
        while self._outdated:
            self._outdated = False  # a later error sets it again
            try:
                await asyncio.shield(self.look_up_names())
                for name in list(self.models):
                    await self._look_up_again(name)
            except BackendError as error:
                log.debug("%s: can't look up the models again: %s", self.member.backend.target, error)
                self._outdated = self.member.backend.connected  # a new connection starts another renewal
            except Unavailable as error:
                log.warning("%s: %s", self.member.backend.target, error)
            await asyncio.sleep(LOOKUP_INTERVAL)

    async def _look_up_again(self, name: str) -> None:
        """Raises BackendError."""
        try:
            await asyncio.shield(self.look_up(name))
        except BackendError as error:
            if error.status != "NOT_FOUND":
                raise
            self.drop(name)  # the list is wrong about this one

    async def _fill(self) -> None:
        """Looks up the missing metadata, one model at a time. A request for a model doesn't wait for its turn."""
        tried: set[str] = set()
        while left := [name for name in self.names if name not in self.models and name not in tried]:
            tried.add(left[0])
            with suppress(BackendError):
                await asyncio.shield(self.look_up(left[0]))

    # ---- Lookups. Each joins the one in progress or starts one, which continues if the waiting tasks are cancelled

    @property
    def is_listing(self) -> bool:
        return None in self._lookups

    def look_up_names(self) -> Lookup:
        """Raises BackendError, or Unavailable if the backend has no list."""
        return self._shared(None, self._find_names)

    def look_up(self, name: str) -> Lookup:
        """Raises BackendError."""
        return self._shared(name, partial(self._find, name))

    def _shared(self, key: str | None, look_up: Callable[[], Coroutine[Any, Any, None]]) -> Lookup:
        task = self._lookups.get(key)
        if task is None:
            task = self._lookups[key] = asyncio.create_task(look_up())
            task.add_done_callback(partial(self._ended, key))
        return task

    def _ended(self, key: str | None, task: Lookup) -> None:
        if self._lookups.get(key) is task:
            del self._lookups[key]
        if not task.cancelled():
            task.exception()  # asyncio logs an exception that was never retrieved

    def _is_kept(self, key: str | None) -> bool:
        """Whether `forget` was not called since the lookup in this task began."""
        return self._lookups.get(key) is asyncio.current_task()

    async def _find_names(self) -> None:
        try:
            try:
                names = await self.member.backend.models()
            except BackendError as error:
                if error.status != "UNIMPLEMENTED":
                    raise
                if not self._served:
                    raise Unavailable("The backend does not list its models; name them with --served-model.") from None
                names = await self._served_here()
            if self._is_kept(None):
                self._take_names(tuple(names))
        except BackendError as error:
            self._recheck_readiness(error)
            raise
        finally:
            if not self.tried:
                self.tried, self.awaited = True, False
                self._changed(None)

    async def _served_here(self) -> list[str]:
        """The `served` models that the backend has metadata for. Raises BackendError, Unavailable."""
        known = []
        for name in self._served:
            try:
                with _if_implemented():
                    await self.member.backend.inputs(name)
            except BackendError as error:
                if error.status != "NOT_FOUND":
                    raise
            else:
                known.append(name)
        if not known:
            raise Unavailable("The backend has none of the models of --served-model.")
        return known

    def _take_names(self, names: tuple[str, ...]) -> None:
        self._remember()
        gone, self.names = set(self.models).difference(names), names
        for name in gone:
            del self.models[name]
            self._changed(name)
        self._changed(None)
        if len(self.models) < len(names) and (self._filling is None or self._filling.done()):
            self._filling = asyncio.create_task(self._fill(), context=Context())

    async def _find(self, name: str) -> None:
        backend = self.member.backend
        input_names: Container[str] = EVERYTHING
        parameters: dict[str, str] = {}
        try:
            with _if_implemented():
                input_names = frozenset(map(sys.intern, await backend.inputs(name))) or EVERYTHING
            with _if_implemented():
                # Templates and vocabularies are large, and equal on all backends that have the model.
                parameters = {key: sys.intern(value) for key, value in (await backend.parameters(name)).items()}
            if not (await backend.extensions()).isdisjoint(EXTENSIONS):
                parameters[DEFAULT_TEMPLATE] = CHATML_BY_DEFAULT
        except BackendError as error:
            self._recheck_readiness(error)
            raise
        metadata = Metadata(input_names, parameters := self._settings.applied(name, parameters))
        if self._is_kept(name) and name in self.names and metadata != self.models.get(name):
            self.models[name] = metadata
            fields = {
                "backend": backend.target,
                "context": metadata.context_length,
                "can": ",".join(metadata.tasks),
                "description": parameters.get("description"),
            }
            logs.log_fields(log, logging.INFO, f"found the model '{name}'", fields)
            self._changed(name)

    def _recheck_readiness(self, error: BackendError) -> None:
        if error.status in UNAVAILABLE_STATUSES:
            self.member.backend.recheck_readiness()


@contextmanager
def _if_implemented() -> Iterator[None]:
    """Suppresses the error of a backend that doesn't implement the call."""
    try:
        yield
    except BackendError as error:
        if error.status != "UNIMPLEMENTED":
            raise

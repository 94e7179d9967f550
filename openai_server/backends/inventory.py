"""The models of one backend: their names, and their metadata.

They are looked up when the backend is ready, and kept until newer results arrive. Three events lead to new lookups:

- The connection is lost: everything is dropped, because another backend may replace the one that is gone.
- A call fails with NOT_FOUND or UNAVAILABLE: everything is looked up again in the background, and stays in use
  meanwhile. If there are many models, that applies to the one of the call.
- A call to a server of another project fails for another reason: its model is looked up again.
"""

import asyncio
import logging
import sys
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from contextlib import suppress
from contextvars import Context
from functools import partial
from typing import Any

from anyserve_common import logs
from openai_server.backends.dialects.base import CHATML_BY_DEFAULT, DEFAULT_TEMPLATE, UnusableModel
from openai_server.backends.dialects.choose import Dialects
from openai_server.backends.dialects.description import Description, IndexEntry
from openai_server.backends.failures import is_refused
from openai_server.backends.metadata import Metadata, listed, split_version
from openai_server.backends.model_settings import NO_SETTINGS, ModelSettings
from openai_server.backends.pool import UNAVAILABLE_STATUSES, Member
from openai_server.core.errors import BackendError, Unavailable

log = logging.getLogger(__name__)

Lookup = asyncio.Task[None]

NO_DIALECT = "no dialect fits its tensors"
MAX_RENEWED = 16
"""A backend with more models looks only those up again whose calls have failed."""
LOOKUP_INTERVAL = 1.0
"""Seconds between two lookups for the same reason: unknown names, or errors of calls."""
MEMORY_SECONDS = 600.0
"""Seconds for which the models of a backend that is gone are remembered: requests for them get status 503, not 404."""


class Inventory:
    """The models of one backend. `served` are the models of a backend that has no RepositoryIndex. `changed` is called
    with the name of a model whose metadata has changed, and with None when the list has. `clock` returns seconds from
    any start. `dialects` chooses the dialect of each model. `settings` are the operator's."""

    def __init__(
        self,
        member: Member,
        served: Sequence[str],
        changed: Callable[[str | None], None],
        clock: Callable[[], float] = time.monotonic,
        dialects: Dialects | None = None,
        settings: ModelSettings = NO_SETTINGS,
    ) -> None:
        self.member = member
        self._dialects = dialects or Dialects()
        self.names: tuple[str, ...] = ()
        """Names of the models that are ready, in the backend's order; empty if that is unknown."""
        self.versions: dict[str, tuple[str, ...]] = {}
        """Versions of these models that are ready, as far as the backend lists them."""
        self.waiting: tuple[str, ...] = ()
        """Names of the listed models that are not ready now, but were before, or that a worker with this project's
        extensions is configured to serve. (Other servers list models that were never loaded.)"""
        self._was_ready: set[str] = set()
        self.models: dict[str, Metadata] = {}
        """Metadata of these models, as far as known, by name; also by `name@version`."""
        self._served_here_names: set[str] = set()
        """Models of `served` that the backend has; their names may have a version."""
        self.missing: set[str] = set()
        """Names of the listed models that the backend has no metadata for."""
        self._failing: set[str] = set()
        """Names of the models whose last lookup has failed."""
        self._reported: set[str] = set()
        """Names of the models without a dialect that the log has a line for."""
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
        self._stale: set[str] = set()
        """Models whose calls have failed since then."""
        self._only_stale = False
        """Whether the next renewal is for these models only."""

    def forget(self) -> None:
        """Drops everything. Lookups in progress still return their results, which are not kept."""
        self._remember()
        names, self.names, self.models = list(self.models), (), {}
        self.versions, self.waiting = {}, ()
        self._was_ready.clear()
        self.missing.clear()
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

    def address(self, name: str) -> tuple[str, str]:
        """The name and the version by which the backend is called; the version is empty if the backend chooses it."""
        is_whole_name = name in self.names and name not in self._served_here_names
        return (name, "") if is_whole_name else split_version(name)

    def has(self, name: str) -> bool:
        """Whether the backend lists the model, or this version of it."""
        base, version = split_version(name)
        return name in self.names or version in self.versions.get(base, ())

    def is_usable(self, name: str) -> bool | None:
        """Whether this server can talk to the model; None if its metadata must be looked up first."""
        if (metadata := self.models.get(name)) is not None:
            return metadata.is_text_model
        if name in self.missing:
            return False
        return True if self.member.backend.is_own else None

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

    def renew(self, model: str | None = None, *, alone: bool = False) -> None:
        """Looks everything up again in the background, and retries if that fails. `model`: the model of the call that
        has failed; if the backend has many, or if `alone`, no other one is looked up again."""
        is_for_all = self._outdated and not self._only_stale  # as an earlier call has requested
        self._outdated, self._only_stale = True, alone and not is_for_all
        if model is not None:
            self._stale.add(model)
        if self._renewal is None or self._renewal.done():
            self._renewal = asyncio.create_task(self._renew(), context=Context())  # it outlives this request

    async def _renew(self) -> None:
        while self._outdated:
            self._outdated = False  # a later error sets it again
            try:
                stale, self._stale = self._stale, set()
                only_stale, self._only_stale = self._only_stale or len(self.models) > MAX_RENEWED, False
                await asyncio.shield(self.look_up_names())
                for name in [name for name in self.models if name in stale or not only_stale]:
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
                entries = await self.member.backend.index()
            except BackendError as error:
                if not (is_refused(error) and self._served) and error.status != "UNIMPLEMENTED":
                    raise
                if not self._served:
                    raise Unavailable("The backend does not list its models; name them with --served-model.") from None
                entries = []
            if not entries and self._served:
                entries = await self._served_here()
            if not all(entry.is_ready for entry in entries):
                await self.member.backend.server()  # whether it is one of this project's
            if self._is_kept(None):
                self._take_index(entries)
        except BackendError as error:
            self._recheck_readiness(error)
            raise
        finally:
            if not self.tried:
                self.tried, self.awaited = True, False
                self._changed(None)

    async def _served_here(self) -> list[IndexEntry]:
        """The `served` models that the backend has metadata for. Raises BackendError, Unavailable."""
        known = []
        for served in self._served:
            try:
                await self.member.backend.describe(*split_version(served))
            except BackendError as error:
                if error.status != "NOT_FOUND":
                    raise
            else:
                known.append(IndexEntry(served))
                self._served_here_names.add(served)
        if not known:
            raise Unavailable("The backend has none of the models of --served-model.")
        return known

    def _take_index(self, entries: Iterable[IndexEntry]) -> None:
        versions: dict[str, list[str]] = {}
        waiting: dict[str, None] = {}
        for entry in entries:
            if entry.is_ready:
                versions.setdefault(entry.name, []).append(entry.version)
            else:
                waiting[entry.name] = None
        self._remember()
        self.missing.clear()
        self.names = tuple(versions)
        self.versions = {name: tuple(filter(None, found)) for name, found in versions.items()}
        for names in (self._was_ready, self._reported, self._failing):
            names &= waiting.keys() | versions.keys()  # otherwise they would grow without end
        self._was_ready.update(versions)
        may_come = waiting.keys() if self.member.backend.is_own else waiting.keys() & self._was_ready
        self.waiting = tuple(name for name in waiting if name in may_come and name not in versions)
        for name in [name for name in self.models if not self.has(name)]:
            del self.models[name]
            self._changed(name)
        self._changed(None)
        is_complete = all(name in self.models for name in self.names)
        if not is_complete and (self._filling is None or self._filling.done()):
            self._filling = asyncio.create_task(self._fill(), context=Context())

    async def _find(self, name: str) -> None:
        backend = self.member.backend
        try:
            description, reported = await backend.describe(*self.address(name))
        except BackendError as error:
            self._recheck_readiness(error)
            if name not in self._failing:
                self._failing.add(name)
                log.warning("%s: can't look up the model '%s': %s", backend.target, name, error.message)
            raise
        self._failing.discard(name)
        recognized, problem = None, NO_DIALECT
        try:
            recognized = self._dialects.of(description)
        except UnusableModel as error:
            problem = str(error)
        dialect = recognized.dialect if recognized else None
        # Templates and vocabularies are large, and equal on all backends that have the model.
        parameters = {key: sys.intern(value) for key, value in reported.items()}
        if dialect is not None:
            parameters = {**dialect.parameters, **parameters}
        if description.server.is_own:
            parameters[DEFAULT_TEMPLATE] = CHATML_BY_DEFAULT
        parameters = self._settings.applied(name, parameters)
        input_names = dialect.input_names if dialect is not None else description.input_names
        reason = recognized.reason if recognized else problem
        metadata = Metadata(input_names, parameters, dialect=dialect, description=description, reason=reason)
        if self._is_kept(name) and self.has(name) and metadata != self.models.get(name):
            self.models[name] = metadata
            if recognized is None:
                self._report_unknown(name, description, problem)
            else:
                fields = {
                    "backend": backend.target,
                    "dialect": recognized.dialect.name,
                    "context": metadata.context_length,
                    "can": ",".join(metadata.tasks),
                    "description": parameters.get("description"),
                }
                logs.log_fields(log, logging.INFO, f"found the model '{name}'", fields)
            self._changed(name)

    def _report_unknown(self, name: str, description: Description, problem: str) -> None:
        """Logs the tensors of a model without a dialect, once. `problem`: why it has none."""
        if name in self._reported:
            return
        self._reported.add(name)
        log.warning(
            "%s: the model '%s' can't be used: %s (inputs: %s; outputs: %s); see --dialect and --mapping",
            self.member.backend.target,
            name,
            problem,
            listed(description.inputs),
            listed(description.outputs),
        )

    def _recheck_readiness(self, error: BackendError) -> None:
        if error.status in UNAVAILABLE_STATUSES:
            self.member.backend.recheck_readiness()

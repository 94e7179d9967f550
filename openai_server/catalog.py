"""Which models the backend serves, under which names, and what it reports of them.

The list and the models are kept until new ones have arrived, so that a request for a known model does not wait for the
lookup that another request needs. Three events lead to new ones:

- A connection was lost: everything is dropped, because another server may take the place of the one that is gone.
- A call failed with NOT_FOUND or UNAVAILABLE: everything is looked up again in the background, and is used meanwhile.
- A name is unknown, or a request needs a fresh list: that request waits for the new list.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Container, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from openai_server.context_length import is_number
from openai_server.encode import EVERYTHING
from openai_server.errors import BackendError, ModelNotFound, TaskNotSupported, Unavailable
from openai_server.pool import Pool
from openai_server.telemetry import logs
from protos.contract import ANYSERVE_VERSION, TASK_GENERATE

log = logging.getLogger(__name__)

FIRST_MODEL_ALIAS = ANYSERVE_VERSION
"""Always a name of the first model, as in AnyServe's instructions."""
LOOKUP_INTERVAL = 1.0
"""Seconds between two lookups of the list for the same reason: unknown names, or errors of calls."""
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Model:
    name: str
    takes: Container[str]
    """Names of its input tensors."""
    parameters: Mapping[str, str]
    """Of contract.CONFIG_PARAMETERS; absent is unknown."""

    @property
    def tasks(self) -> list[str]:
        """What it can do. A backend that does not say knows of nothing but generation."""
        return self.parameters.get("tasks", TASK_GENERATE).split(",")

    @property
    def context_length(self) -> int | None:
        """None is unknown."""
        length = self.parameters.get("context_length", "")
        return int(length) if is_number(length) else None

    def require(self, task: str) -> None:
        """Raises TaskNotSupported."""
        if task not in self.tasks:
            raise TaskNotSupported(self.name, task, self.tasks)


class _Interval:
    """Permits one lookup, and the next one LOOKUP_INTERVAL after that has ended."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._free_at = float("-inf")

    @property
    def over(self) -> bool:
        return self._clock() >= self._free_at

    def begin(self) -> None:
        self._free_at = self._clock() + LOOKUP_INTERVAL


class Catalog:
    """`served` are the models of a backend that has no RepositoryIndex; `aliases` map other names to models; `clock`
    gives seconds from any start."""

    def __init__(
        self,
        backend: Pool,
        *,
        served: Sequence[str],
        aliases: Mapping[str, str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._backend = backend
        self._served = tuple(served)
        self._aliases = dict(aliases)
        self._names: tuple[str, ...] = ()
        """In the backend's order; empty is unknown."""
        self._models: dict[str, Model] = {}
        self._lookups: dict[str | None, asyncio.Task[Any]] = {}
        """Lookups under way, each shared by all requests that wait for it: by model, None is the list."""
        self._unknown: asyncio.Task[None] | None = None
        """The last lookup of the list for unknown names."""
        self._after_unknown = _Interval(clock)
        """Since that lookup; until it is over, unknown names stay unknown."""
        self._unlisted: Callable[[], BackendError | Unavailable] | None = None
        """Why that lookup failed: unknown names get the same answer."""
        self._after_replaced = _Interval(clock)
        """Since the last lookup of the list because the first model was gone."""
        self._renewal: asyncio.Task[None] | None = None
        """The last lookup of everything because a call had failed."""
        self._after_error = _Interval(clock)
        """Since that lookup."""
        self._outdated = False
        """A call has failed since everything was looked up."""

    def forget(self) -> None:
        """Drops everything. Lookups under way still answer their callers, and are not kept."""
        self._names = ()
        self._models = {}
        self._lookups = {}
        self._outdated = False

    def learn(self, error: BackendError) -> None:
        """Looks everything up again, in the background, if the error shows that it may be out of date."""
        if error.status in ("UNAVAILABLE", "NOT_FOUND") and self._names:
            self._outdated = True
            self._renew()

    async def outdated(self, error: BackendError, requested: str | None) -> bool:
        """Learns from the error. Returns whether a retry may find another model, which a request without a name may."""
        if error.status == "NOT_FOUND" and not requested:
            if self._after_replaced.over:
                try:
                    await self._list()
                except (BackendError, Unavailable):
                    return False
                finally:
                    self._after_replaced.begin()
            self.learn(error)
            return True
        self.learn(error)
        return False

    async def names(self, *, fresh: bool = False) -> tuple[str, ...]:
        """At least one. Raises BackendError, or Unavailable if no model is ready."""
        return await self._list() if fresh or not self._names else self._names

    async def first(self) -> str:
        return (await self.names())[0]

    async def resolve(self, requested: str | None) -> Model:
        """No name is the first model. Raises ModelNotFound, BackendError, Unavailable."""
        if self._outdated:
            self._renew()
        fresh = not self._names
        names = await self.names()
        name = self._known(requested, names)
        if name is None and not fresh:
            name = self._known(requested, await self._names_for_unknown())  # It may have been loaded since.
        if name is None:
            raise ModelNotFound(requested or "")
        return await self._model(name)

    def context_length(self, requested: str | None) -> int | None:
        """Of the model that a request names; None if that is not known without a lookup."""
        name = self._known(requested, self._names) if self._names else None
        model = self._models.get(name or "")
        return None if model is None else model.context_length

    async def all(self) -> list[Model]:
        """The models of a fresh list. Raises BackendError, Unavailable."""
        models = []
        for name in await self.names(fresh=True):
            try:
                models.append(await self._model(name))
            except BackendError as error:
                if error.status != "NOT_FOUND":
                    raise  # otherwise it has been unloaded since the list was made
        return models

    def _known(self, requested: str | None, names: Sequence[str]) -> str | None:
        if not requested:
            return names[0]
        if requested in names:
            return requested
        if (target := self._aliases.get(requested)) is not None:
            return target if target in names else None
        return names[0] if requested == FIRST_MODEL_ALIAS else None

    # ---- Lookups

    async def _names_for_unknown(self) -> tuple[str, ...]:
        """A list that is not older than LOOKUP_INTERVAL. Raises BackendError, Unavailable."""
        if self._after_unknown.over and (self._unknown is None or self._unknown.done()):
            self._unknown = asyncio.create_task(self._look_up_unknown())
        if self._unknown is not None:
            await asyncio.shield(self._unknown)
        if self._unlisted is not None:
            raise self._unlisted()
        return await self.names()

    async def _look_up_unknown(self) -> None:
        self._unlisted = None
        try:
            await self._list()
        except BackendError as error:
            self._unlisted = partial(BackendError, error.status, error.message, error.details)
        except Unavailable as error:
            self._unlisted = partial(Unavailable, error.message)
        finally:
            self._after_unknown.begin()

    def _renew(self) -> None:
        if self._after_error.over and (self._renewal is None or self._renewal.done()):
            self._renewal = asyncio.create_task(self._look_up_again())

    async def _look_up_again(self) -> None:
        models, self._outdated = self._models, False  # a later error sets it again
        try:
            names = await self._list()
            for name in set(models).intersection(names):
                try:
                    await self._shared(name, partial(self._find, name))
                except BackendError as error:
                    if error.status != "NOT_FOUND":
                        raise
                    models.pop(name, None)  # the list is wrong about this one
        except (BackendError, Unavailable) as error:
            self._outdated = True
            log.debug("can't look up the models again: %s", error)
        finally:
            self._after_error.begin()

    async def _list(self) -> tuple[str, ...]:
        return await self._shared(None, self._find_names)

    async def _model(self, name: str) -> Model:
        if (model := self._models.get(name)) is not None:
            return model
        return await self._shared(name, partial(self._find, name))

    async def _shared(self, key: str | None, look_up: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Joins the lookup under way, or begins one, which goes on if this request is cancelled."""
        task: asyncio.Task[T] | None = self._lookups.get(key)
        if task is None:
            task = self._lookups[key] = asyncio.create_task(look_up())
            task.add_done_callback(partial(self._ended, key))
        return await asyncio.shield(task)

    def _ended(self, key: str | None, task: "asyncio.Task[Any]") -> None:
        if self._lookups.get(key) is task:
            del self._lookups[key]
        if not task.cancelled():
            task.exception()  # asyncio logs an exception that was never retrieved

    def _is_kept(self, key: str | None) -> bool:
        """Whether the lookup that runs here has not been overtaken by `forget`."""
        return self._lookups.get(key) is asyncio.current_task()

    async def _find_names(self) -> tuple[str, ...]:
        try:
            names = tuple(await self._backend.models())
        except BackendError as error:
            if error.status != "UNIMPLEMENTED":
                raise
            names = self._served
            if not names:
                raise Unavailable("The backend does not list its models; name them with --served-model.") from None
        if self._is_kept(None):
            self._names, self._unlisted = names, None
            for name in set(self._models).difference(names):
                del self._models[name]
        if not names:
            raise Unavailable("The model backend has no model ready at the moment; please try again.")
        return names

    async def _find(self, name: str) -> Model:
        takes: Container[str] = EVERYTHING
        parameters: Mapping[str, str] = {}
        try:
            takes = await self._backend.inputs(name) or EVERYTHING
        except BackendError as error:
            if error.status != "UNIMPLEMENTED":
                raise
        try:
            parameters = await self._backend.parameters(name)
        except BackendError as error:
            if error.status != "UNIMPLEMENTED":
                raise
        model = Model(name, takes, parameters)
        if self._is_kept(name) and model != self._models.get(name):
            self._models[name] = model
            fields = {
                "context": model.context_length,
                "can": ",".join(model.tasks),
                "description": parameters.get("description"),
            }
            logs.say(log, logging.INFO, f"found the model '{name}'", fields)
        return model

"""Which models the backend serves, under which names, and what it tells of them.

Learned once and kept until there is a sign that it has changed: the connection was lost, a call found the backend away
or the model gone, or somebody asks for a name that is not known.
"""

import asyncio
import logging
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass

from openai_server.encode import EVERYTHING
from openai_server.errors import BackendError, ModelNotFound, TaskNotSupported, Unavailable
from openai_server.pool import Pool
from openai_server.telemetry import logs
from protos.contract import ANYSERVE_VERSION, TASK_GENERATE

log = logging.getLogger(__name__)

FIRST_MODEL_ALIAS = ANYSERVE_VERSION
"""Always a name of the first model, as in AnyServe's instructions."""


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
        told = self.parameters.get("context_length", "")
        return int(told) if told.isascii() and told.isdecimal() else None

    def require(self, task: str) -> None:
        """Raises TaskNotSupported."""
        if task not in self.tasks:
            raise TaskNotSupported(self.name, task, self.tasks)


class Catalog:
    """`served` are the models of a backend that has no RepositoryIndex; `aliases` map other names to models."""

    def __init__(self, backend: Pool, *, served: Sequence[str], aliases: Mapping[str, str]) -> None:
        self._backend = backend
        self._served = tuple(served)
        self._aliases = dict(aliases)
        self._names: tuple[str, ...] = ()
        self._models: dict[str, Model] = {}
        self._lookup = asyncio.Lock()
        """One lookup at a time, whose result serves all who wait for it."""

    def forget(self) -> None:
        self._names = ()
        self._models = {}

    def learn(self, error: BackendError) -> None:
        """Forgets what an error shows to be out of date."""
        if error.status in ("UNAVAILABLE", "NOT_FOUND"):
            self.forget()

    def outdated(self, error: BackendError, requested: str | None) -> bool:
        """Learns of it, and says whether another try may find another model: who names none gets the one there is."""
        self.learn(error)
        return error.status == "NOT_FOUND" and not requested

    async def names(self, *, fresh: bool = False) -> tuple[str, ...]:
        """At least one. Raises BackendError, or Unavailable if no model is ready."""
        if fresh:
            self._names = ()
        if self._names:
            return self._names
        async with self._lookup:
            if not self._names:
                self._names = await self._find_names()
            return self._names

    async def first(self) -> str:
        return (await self.names())[0]

    async def resolve(self, requested: str | None) -> Model:
        """No name is the first model. Raises ModelNotFound, BackendError, Unavailable."""
        name = self._known(requested, await self.names())
        if name is None:
            # It may have been loaded since.
            name = self._known(requested, await self.names(fresh=True))
        if name is None:
            raise ModelNotFound(requested or "")
        if name not in self._models:
            async with self._lookup:
                if name not in self._models:
                    self._models[name] = await self._find(name)
        return self._models[name]

    def _known(self, requested: str | None, names: Sequence[str]) -> str | None:
        if not requested:
            return names[0]
        if requested in names:
            return requested
        if (target := self._aliases.get(requested)) is not None:
            return target if target in names else None
        return names[0] if requested == FIRST_MODEL_ALIAS else None

    async def _find_names(self) -> tuple[str, ...]:
        try:
            names = tuple(await self._backend.models())
        except BackendError as error:
            if error.status != "UNIMPLEMENTED":
                raise
            names = self._served
            if not names:
                raise Unavailable("The backend does not list its models; name them with --served-model.") from None
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
        fields = {
            "context": model.context_length,
            "can": ",".join(model.tasks),
            "description": parameters.get("description"),
        }
        logs.say(log, logging.INFO, f"found the model '{name}'", fields)
        return model

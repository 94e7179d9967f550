"""Finds the model for a request, and keeps the metadata of the backends' models up to date.

A request for a known model doesn't wait. A request for a name that no backend has listed waits until all backends have
listed their models again, at most once per LOOKUP_INTERVAL. `inventory.py` looks up the models of one backend, and
again after a failed call; `directory.py` combines the inventories.
"""

import asyncio
import time
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from openai_server.backends.dialects.choose import Dialects
from openai_server.backends.directory import DEFAULT_NAMES, Directory, Failed, Model, without
from openai_server.backends.inventory import LOOKUP_INTERVAL, Inventory, Lookup
from openai_server.backends.model_settings import NO_SETTINGS, ModelSettings
from openai_server.backends.pool import UNAVAILABLE_STATUSES, Listener, Member, Pool, load, may_succeed_elsewhere
from openai_server.core.errors import (
    BackendError,
    ModelNotFound,
    NoTextModel,
    TaskNotSupported,
    Unavailable,
    UnsupportedParameter,
)

REFRESH_INTERVAL = 5.0
"""Seconds between lookups of the lists of several backends: a backend may have loaded a model since the last one."""
LIST_WAIT = 1.0
"""Seconds that a request waits for further lists after the first one."""
T = TypeVar("T")


class Catalog(Listener):
    """The models of all backends. `served` are the models of a backend that has no RepositoryIndex; `aliases` map other
    names to models; `clock` returns seconds from any start; `dialects` chooses the dialect of each model; `settings`
    are the operator's. Must be created in the event loop that uses it."""

    def __init__(
        self,
        pool: Pool,
        *,
        served: Sequence[str],
        aliases: Mapping[str, str],
        clock: Callable[[], float] = time.monotonic,
        dialects: Dialects | None = None,
        settings: ModelSettings = NO_SETTINGS,
    ) -> None:
        self._pool = pool
        self._dialects = dialects or Dialects()
        self._served = tuple(served)
        self._clock = clock
        self.settings = settings
        self._directory = Directory(pool, aliases)
        self._change = asyncio.get_running_loop().create_future()
        """Future of the next change of the directory."""
        self._unknown_until = float("-inf")
        """Time until which unknown names are not looked up again."""
        self._unlisted: BackendError | Unavailable | None = None
        """Error of the last lookup for an unknown name, which other requests get too; None if it succeeded."""
        self._replaced_until = float("-inf")
        """Time until which the lists are not looked up again because the default model was gone."""
        pool.listener = self
        for member in pool.members:
            self.joined(member)

    async def watch(self) -> None:
        """Finds changes of the backends' models without a request. Runs until cancelled."""
        try:
            while True:
                await asyncio.sleep(REFRESH_INTERVAL)
                self._directory.arrange()  # names may have expired
                if len(self._pool.members) > 1:
                    for inventory in self._directory.inventories:
                        if inventory.member.backend.connected:
                            inventory.look_up_names()
        finally:
            for inventory in self._directory.inventories:
                inventory.close()

    # ---- Changes of backends

    def joined(self, member: Member) -> None:
        inventory = Inventory(member, self._served, self._changed, self._clock, self._dialects, self.settings)
        self._directory.add(inventory)

    def left(self, member: Member) -> None:
        self._directory.remove(member)

    def ready(self, member: Member) -> None:
        inventory = self._directory.inventory(member)
        if inventory is not None and not inventory.names:
            inventory.renew()

    def lost(self, member: Member) -> None:
        if inventory := self._directory.inventory(member):
            inventory.forget()

    def failed(self, member: Member, model: str, error: BackendError) -> None:
        inventory = self._directory.inventory(member)
        if inventory is None or not inventory.names:
            return
        if error.status not in ("UNAVAILABLE", "NOT_FOUND"):
            # Another server may have loaded the model again, with other tensors.
            if error.status in ("INVALID_ARGUMENT", "UNKNOWN", "INTERNAL") and not member.backend.is_own:
                inventory.renew(model, alone=True)
            return
        if error.status == "NOT_FOUND" and self._directory.has_another(model, member):
            inventory.drop(model)
        inventory.renew(model)

    def _changed(self, name: str | None) -> None:
        self._directory.change(name)
        change, self._change = self._change, self._change.get_loop().create_future()
        change.set_result(None)

    # ---- For requests

    async def resolve(self, requested: str | None) -> Model:
        """The model, with the metadata of the first backend that has it. No name is the default model.

        Raises ModelNotFound, BackendError, Unavailable.
        """
        return (self._directory.known(requested) or await self._find(requested))[0]

    def context_length(self, requested: str | None) -> int | None:
        """Context length of the requested model in tokens; None if unknown, or if that would need a lookup."""
        models = self._directory.known(requested)
        return models[0].context_length if models else None

    async def use(self, requested: str | None, failed: Failed, build: Callable[[Model], Coroutine[Any, Any, T]]) -> T:
        """Calls `build` with the model, in the form of the least busy backends that have it.

        Backends in `failed` are left out. If the request can't be built for one form of the model, the next one is
        tried. Raises what `resolve` and `build` raise.
        """
        models = self._directory.known(requested) or await self._find(requested)
        if failed:
            models = without(models, failed) or models
        if len(models) > 1:
            models = tuple(model for model in models if model.is_text_model) or models[:1]
            models = tuple(sorted(models, key=lambda model: min(map(load, model.members))))
            for model in models[:-1]:
                with suppress(TaskNotSupported, UnsupportedParameter):
                    return await build(model)
        return await build(models[-1])

    async def retry(self, error: BackendError, requested: str | None, failed: Failed) -> Failed | None:
        """The backends that the next attempt must leave out; None if there should be no other attempt."""
        if not (may_succeed_elsewhere(error) and error.tried):
            return None
        if error.tried <= failed:
            return None  # the next attempt would be the same
        failed |= error.tried
        if without(self._directory.known(requested), failed):
            return failed
        # A request without a model is not bound to the default model that is gone.
        is_replaced = not requested and error.status == "NOT_FOUND" and without(await self._default_again(), failed)
        return failed if is_replaced else None

    async def _default_again(self) -> tuple[Model, ...]:
        """The default model after new lookups; empty if they fail."""
        try:
            if self._clock() >= self._replaced_until:
                try:
                    await self._look_up_lists()
                finally:
                    self._replaced_until = self._clock() + LOOKUP_INTERVAL
            return self._directory.known(None) or await self._find(None)
        except (BackendError, ModelNotFound, Unavailable):
            return ()

    async def all(self) -> list[Model]:
        """All text models after new lookups, each with the metadata of one backend.

        Raises BackendError, Unavailable.
        """
        return [model for model in await self.found() if model.is_text_model]

    async def found(self) -> list[Model]:
        """The same, with the models that no dialect fits."""
        await self._look_up_lists()
        models, names = self._directory.models, self._directory.listed
        lookups = [
            inventory.look_up(name)
            for name in names
            if name not in models
            for inventory in self._directory.having(name)
        ]
        if lookups:
            await asyncio.wait(lookups)
        if not (found := [models[name][0] for name in names if name in models]):
            raise _first_error(lookups) or _nothing_ready()
        return found

    @property
    def default_name(self) -> str | None:
        """The name of the default model; None if it is unknown."""
        return self._directory.target(None)

    def aliases(self) -> dict[str, str]:
        """The names of models by their aliases, if the models are listed."""
        return self._directory.listed_aliases()

    async def check_default(self) -> None:
        """Raises BackendError or Unavailable if a request for the default model would not be answered."""
        try:
            name = await self._name(None)
        except NoTextModel as error:
            raise Unavailable(error.message) from error
        inventories = self._directory.having(name)
        members = [inventory.member for inventory in inventories]
        if not (members and await self._pool.ready(*inventories[0].address(name), members)):
            raise Unavailable(f"No backend can answer requests for the default model '{name}' at the moment.")

    async def _find(self, requested: str | None) -> tuple[Model, ...]:
        """The model in all its forms, at least one. Raises ModelNotFound, BackendError, Unavailable."""
        name, directory = await self._name(requested), self._directory
        lookups: dict[Inventory, Lookup] = {}
        while name not in directory.models:
            for inventory in directory.having(name):
                if inventory not in lookups:
                    lookups[inventory] = inventory.look_up(name)
            if not lookups:
                raise Unavailable(f"No backend has the model '{name}' at the moment; please try again.")
            running = [lookup for lookup in lookups.values() if not lookup.done()]
            # Backends that have not listed their models yet may have it too.
            running += [inventory.look_up_names() for inventory in directory.inventories if inventory.is_listing]
            if not running:
                raise _first_error(lookups.values()) or ModelNotFound(name)
            await asyncio.wait((*running, self._change), return_when=asyncio.FIRST_COMPLETED)
        return directory.models[name]

    async def _name(self, requested: str | None) -> str:
        """The name of the model, after the necessary lookups. Raises ModelNotFound, BackendError, Unavailable."""
        directory = self._directory

        def is_listed() -> bool:
            return directory.target(requested) in directory.listed

        target = directory.target(requested)
        if not directory.listed or (target is None and (requested or "") in DEFAULT_NAMES):
            await self._look_up_lists(is_listed)
        elif target is None:
            await self._look_up_unknown(is_listed)
        elif target not in directory.listed:
            with suppress(BackendError, Unavailable):  # its backend may be back
                if silent := [inventory for inventory in directory.inventories if not inventory.names]:
                    await self._look_up_lists(is_listed, silent)
                else:
                    await self._look_up_unknown(is_listed)
        if (requested or "") in DEFAULT_NAMES:
            await self._decide_default()
        if (name := directory.target(requested)) is not None:
            return name
        if not directory.listed:
            raise _nothing_ready()
        if (requested or "") in DEFAULT_NAMES and all(inventory.tried for inventory in directory.inventories):
            raise NoTextModel(tuple(directory.listed))
        if any(inventory.is_listing and not inventory.tried for inventory in directory.inventories):
            raise Unavailable("Not every backend has listed its models yet; please try again.")
        raise ModelNotFound(requested or "")

    async def _decide_default(self) -> None:
        """Looks up models in the order of the lists until the first one is known that can be the default model. A model
        that can't be looked up is passed over.

        Raises BackendError if that applies to all of them.
        """
        directory, tried = self._directory, set[tuple[Inventory, str]]()
        first: BackendError | None = None
        while (undecided := directory.undecided) is not None and undecided not in tried:
            tried.add(undecided)
            inventory, name = undecided
            try:
                await asyncio.shield(inventory.look_up(name))
            except BackendError as error:
                if error.status in UNAVAILABLE_STATUSES and not inventory.member.backend.connected:
                    raise
                first = first or error
                inventory.missing.add(name)
            directory.arrange()
        if first is not None and directory.target(None) is None:
            raise first.with_traceback(None)

    # ---- Lookups

    async def _look_up_unknown(self, enough: Callable[[], bool]) -> None:
        """Looks up the lists for a name that no backend has listed. Raises BackendError, Unavailable."""
        is_listing = any(inventory.is_listing for inventory in self._directory.inventories)
        if is_listing or self._clock() >= self._unknown_until:
            try:
                await self._look_up_lists(enough)
            except (BackendError, Unavailable) as error:
                self._unlisted = error
                raise
            finally:
                self._unknown_until = self._clock() + LOOKUP_INTERVAL
        elif self._unlisted is not None:
            raise self._unlisted.with_traceback(None)

    async def _look_up_lists(
        self, enough: Callable[[], bool] = lambda: False, inventories: Collection[Inventory] = ()
    ) -> None:
        """Looks up the lists of these backends (default: all that may answer), until `enough` returns true.

        Stops waiting LIST_WAIT seconds after the first list. Raises the first backend's BackendError or Unavailable if
        no backend has answered.
        """
        await self._pool.resolved(LIST_WAIT)
        every = self._directory.inventories
        able = [inventory for inventory in every if inventory.member.backend.connected or not inventory.tried]
        lookups = {inventory.look_up_names(): inventory for inventory in inventories or able or every}
        loop, running = asyncio.get_running_loop(), set(lookups)
        until = loop.time() + LIST_WAIT if inventories and self._directory.listed else None
        while running and not enough():
            timeout = None if until is None else max(0, until - loop.time())
            done, _ = await asyncio.wait((*running, self._change), timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                break
            if until is None and any(map(_has_succeeded, running & done)):
                until = loop.time() + LIST_WAIT
            running -= done
        if not enough():
            for lookup in running:
                lookups[lookup].awaited = False
            self._directory.arrange()
        if not any(map(_has_succeeded, lookups)) and (error := _first_error(lookups)):
            raise error
        self._unlisted = None


def _nothing_ready() -> Unavailable:
    return Unavailable("The model backend has no model ready at the moment; please try again.")


def _has_succeeded(lookup: Lookup) -> bool:
    return lookup.done() and not lookup.cancelled() and lookup.exception() is None


def _first_error(lookups: Iterable[Lookup]) -> BaseException | None:
    """The error of the first failed lookup, preferably one other than NOT_FOUND; None if none has failed."""
    errors = [
        error.with_traceback(None)
        for lookup in lookups
        if lookup.done() and not lookup.cancelled() and (error := lookup.exception())
    ]
    return min(errors, key=lambda error: getattr(error, "status", "") == "NOT_FOUND", default=None)

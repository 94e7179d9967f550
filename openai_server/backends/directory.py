"""Maps names to models, and models to the backends that have them: the union of all inventories.

Nothing here waits. Finding a known model takes one to three lookups in a dict.

The default model is the first model of the first endpoint (in the order of the command line) that has listed its
models. When its backend is gone, it stays the default as long as the models of that backend are remembered.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from openai_server.backends.dialects.base import Dialect
from openai_server.backends.inventory import Inventory
from openai_server.backends.metadata import Metadata, split_version
from openai_server.backends.pool import Member, Pool
from openai_server.core.errors import TaskNotSupported, UnknownDialect
from protos.contract import ANYSERVE_VERSION

log = logging.getLogger(__name__)

FIRST_MODEL_ALIAS = ANYSERVE_VERSION
"""An alias of the default model on every server, as in AnyServe's instructions."""
DEFAULT_NAMES = ("", FIRST_MODEL_ALIAS)

Failed = frozenset[tuple[Member, str]]
"""Members that failed to answer a request, each with the model that was called."""


@dataclass(frozen=True, slots=True, eq=False)
class Model(Metadata):
    """A model in one form. If backends report different metadata for a name, each form is a Model of its own."""

    name: str
    members: tuple[Member, ...]
    """Members that have the model in this form; at least one."""

    @property
    def address(self) -> tuple[str, str]:
        """The name and the version that requests must have; the version is empty if the backend chooses it."""
        described = self.description
        return (self.name, "") if described is None else (described.model, described.version)

    def require(self, *tasks: str) -> Dialect:
        """The dialect. Raises UnknownDialect, or TaskNotSupported if the model can do none of the tasks."""
        if self.dialect is None:
            raise UnknownDialect(self.name)
        if not any(task in self.tasks for task in tasks):
            raise TaskNotSupported(self.name, tasks[0], self.tasks)
        return self.dialect


class Directory:
    """`aliases` map other names to models."""

    def __init__(self, pool: Pool, aliases: Mapping[str, str]) -> None:
        self._pool = pool
        self._aliases = dict(aliases)
        self._inventories: dict[Member, Inventory] = {}
        self._departed: list[Inventory] = []
        """Inventories of backends whose addresses are gone, as long as their models are remembered."""
        self.listed: dict[str, None] = {}
        """Names of the listed models, in the order of the backends and of their lists."""
        self.models: dict[str, tuple[Model, ...]] = {}
        """The forms of each model with known metadata, by name."""
        self._synonyms: dict[str, str] = {}
        """Other name → model: aliases, and the names of the default model if that is known."""
        self._remembered: frozenset[str] = frozenset()
        """Names of models whose backends are gone."""
        self._differing: set[str] = set()
        """Models for which backends report different metadata."""
        self._default: str | None = None
        """The default model; None if none is known yet."""
        self.undecided: tuple[Inventory, str] | None = None
        """A model whose metadata must be known before the default model can be chosen."""

    # ---- Backends

    @property
    def inventories(self) -> list[Inventory]:
        return list(self._inventories.values())

    def inventory(self, member: Member) -> Inventory | None:
        """None if the member's address is gone."""
        return self._inventories.get(member)

    def add(self, inventory: Inventory) -> None:
        self._inventories[inventory.member] = inventory

    def remove(self, member: Member) -> None:
        inventory = self._inventories.pop(member)
        inventory.forget()
        self._departed.append(inventory)
        self.arrange()

    def having(self, name: str) -> list[Inventory]:
        """Inventories of the backends that list the model."""
        return [inventory for inventory in self._inventories.values() if inventory.has(name)]

    def has_another(self, name: str, member: Member) -> bool:
        """Whether a backend other than this one is known to have the model."""
        return any(other is not member for model in self.models.get(name, ()) for other in model.members)

    # ---- Names

    def known(self, requested: str | None) -> tuple[Model, ...]:
        """The forms of the requested model; empty if a lookup is needed. No name is the default model."""
        requested = requested or ""
        if (models := self.models.get(requested)) is None and (synonym := self._synonyms.get(requested)) is not None:
            models = self.models.get(synonym)
        return models or ()

    def target(self, requested: str | None) -> str | None:
        """The name of the model, even if its backend is gone; None if it is unknown."""
        requested = requested or ""
        if requested in self.listed:
            return requested
        if (synonym := self._synonyms.get(requested)) is not None:
            return synonym
        if requested in self._remembered:
            return requested
        base, version = split_version(requested)
        if not version:
            return None
        name = f"{self._synonyms.get(base, base)}@{version}"
        return name if self.having(name) else None

    def listed_aliases(self) -> dict[str, str]:
        """Alias → name of a listed model. An alias that is also the name of a listed model is left out."""
        return {
            alias: target
            for alias, target in self._aliases.items()
            if target in self.listed and alias not in self.listed
        }

    # ---- Changes

    def change(self, name: str | None) -> None:
        """Updates the directory after an inventory has new metadata of this model, or a new list if `name` is None."""
        if name is not None:
            self._group(name)
        if name is None or self._default is None:
            self.arrange()

    def arrange(self) -> None:
        """Combines the lists of all inventories."""
        self._departed = [inventory for inventory in self._departed if inventory.remembered]
        inventories = [self._inventories[member] for member in self._pool.members if member in self._inventories]
        self.listed = dict.fromkeys(name for inventory in inventories for name in inventory.names)
        self._remembered = frozenset(
            name
            for inventory in (*inventories, *self._departed)
            for name in (*inventory.remembered, *inventory.waiting)
        )
        default = self._choose_default(inventories)
        self._synonyms = dict.fromkeys(DEFAULT_NAMES, default) if default else {}
        for alias, target in self._aliases.items():
            self._synonyms.pop(alias, None)
            if target in self.listed or target in self._remembered or self.having(target):
                self._synonyms[alias] = target
        for name in self.listed:
            self._synonyms.pop(name, None)

    def _choose_default(self, inventories: Sequence[Inventory]) -> str | None:
        """The default model. It is chosen once, and stays the default while any backend has it in its list, ready or
        not, or its backend is remembered."""
        kept = self._default
        if kept is not None and (kept in self.listed or kept in self._remembered):
            return kept
        default = self._first_usable(inventories)
        if default is not None:
            if kept is not None:
                log.warning("the default model is '%s' now; '%s' is gone", default, kept)
            self._default = default
        return default

    def _first_usable(self, inventories: Sequence[Inventory]) -> str | None:
        """The first model of the first endpoint that this server can talk to. None if no backend has listed any, while
        an earlier endpoint may still do so, or while the metadata of an earlier model is unknown (`undecided`)."""
        self.undecided = None
        every = [*inventories, *self._departed]
        unresolved = self._pool.unresolved
        for endpoint in sorted({*unresolved, *(inventory.member.endpoint for inventory in every)}):
            here = [inventory for inventory in every if inventory.member.endpoint == endpoint]
            for inventory in here:
                for name in inventory.names:
                    if (is_usable := inventory.is_usable(name)) is None:
                        self.undecided = inventory, name
                        return None
                    if is_usable:
                        return name
            if remembered := next(filter(None, (inventory.remembered for inventory in here)), None):
                return remembered[0]
            if endpoint in unresolved or any(inventory.awaited for inventory in here):
                return None
        return None

    def _group(self, name: str) -> None:
        """Groups the backends that report the same metadata for a model."""
        groups: list[tuple[Metadata, list[Member]]] = []
        for member in self._pool.members:
            inventory = self._inventories.get(member)
            if inventory is None or (metadata := inventory.models.get(name)) is None:
                continue
            for first, members in groups:
                if not metadata.differences(first):
                    members.append(member)
                    break
            else:
                groups.append((metadata, [member]))
        groups.sort(key=lambda group: not group[0].is_text_model)  # others of the same name are of no use
        if groups:
            self.models[name] = tuple(
                Model(
                    metadata.input_names,
                    metadata.parameters,
                    name,
                    tuple(members),
                    dialect=metadata.dialect,
                    description=metadata.description,
                    reason=metadata.reason,
                )
                for metadata, members in groups
            )
        else:
            self.models.pop(name, None)
        self._report_differences(name, groups)

    def _report_differences(self, name: str, groups: Sequence[tuple[Metadata, Sequence[Member]]]) -> None:
        """Logs a line when backends begin to differ, as in a rolling update, and a line when they agree again."""
        if len(groups) > 1 and name not in self._differing:
            self._differing.add(name)
            (first_metadata, (first, *_)), (second_metadata, (second, *_)) = groups[:2]
            log.warning(
                "%s and %s report different metadata for the model '%s' (%s); each request is built for the backend "
                "that gets it",
                first.backend.target,
                second.backend.target,
                name,
                ", ".join(first_metadata.differences(second_metadata)),
            )
        elif len(groups) < 2 and name in self._differing:
            self._differing.discard(name)
            if groups:
                log.info("all backends report the same metadata for the model '%s' again", name)


def without(models: Iterable[Model], failed: Failed) -> tuple[Model, ...]:
    """The models without their failed members; models without any other member are left out."""
    left = []
    for model in models:
        members = tuple(member for member in model.members if (member, model.name) not in failed)
        if members:
            left.append(replace(model, members=members))
    return tuple(left)

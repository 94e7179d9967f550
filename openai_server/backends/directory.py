"""Maps names to models, and models to the backends that have them: the union of all inventories.

Nothing here waits. Finding a known model takes one to three lookups in a dict.

The default model is the first model of the first endpoint (in the order of the command line) that has listed its
models. When its backend is gone, it stays the default as long as the models of that backend are remembered.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from openai_server.backends.inventory import Inventory, Metadata
from openai_server.backends.pool import Member, Pool
from openai_server.core.errors import TaskNotSupported
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

    def require(self, task: str) -> None:
        """Raises TaskNotSupported."""
        if task not in self.tasks:
            raise TaskNotSupported(self.name, task, self.tasks)


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
        return [inventory for inventory in self._inventories.values() if name in inventory.names]

    def has_another(self, name: str, member: Member) -> bool:
        """Whether a backend other than this one is known to have the model."""
        return any(other is not member for model in self.models.get(name, ()) for other in model.members)

    # ---- Names

    def known(self, requested: str | None) -> tuple[Model, ...]:
        """The forms of the requested model; empty if a lookup is needed. No name is the default model."""
        requested = requested or ""
        return self.models.get(requested) or self.models.get(self._synonyms.get(requested, ""), ())

    def target(self, requested: str | None) -> str | None:
        """The name of the model, even if its backend is gone; None if it is unknown."""
        requested = requested or ""
        if requested in self.listed:
            return requested
        return self._synonyms.get(requested) or (requested if requested in self._remembered else None)

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
        if name is None:
            self.arrange()
        else:
            self._group(name)

    def arrange(self) -> None:
        """Combines the lists of all inventories."""
        self._departed = [inventory for inventory in self._departed if inventory.remembered]
        inventories = [self._inventories[member] for member in self._pool.members if member in self._inventories]
        self.listed = dict.fromkeys(name for inventory in inventories for name in inventory.names)
        self._remembered = frozenset(
            name for inventory in (*inventories, *self._departed) for name in inventory.remembered
        )
        default = self._default(inventories)
        self._synonyms = dict.fromkeys(DEFAULT_NAMES, default) if default else {}
        for alias, target in self._aliases.items():
            self._synonyms.pop(alias, None)
            if target in self.listed or target in self._remembered:
                self._synonyms[alias] = target
        for name in self.listed:
            self._synonyms.pop(name, None)

    def _default(self, inventories: Sequence[Inventory]) -> str | None:
        """The default model; None if no backend has listed any model, or while an earlier endpoint may still do so."""
        every = [*inventories, *self._departed]
        unresolved = self._pool.unresolved
        for endpoint in sorted({*unresolved, *(inventory.member.endpoint for inventory in every)}):
            here = [inventory for inventory in every if inventory.member.endpoint == endpoint]
            lists = (*(inventory.names for inventory in here), *(inventory.remembered for inventory in here))
            if (names := next(filter(None, lists), None)) is not None:
                return names[0]
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
        if groups:
            self.models[name] = tuple(
                Model(metadata.input_names, metadata.parameters, name, tuple(members)) for metadata, members in groups
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

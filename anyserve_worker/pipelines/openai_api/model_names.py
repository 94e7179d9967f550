"""Which models of an upstream are served, and under which names. PURE."""

import re
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any

from anyserve_worker.pipelines.core.names import name_problem

MAX_LISTED = 2000
"""Models that an upstream may list; the others are ignored."""


class ModelNames:
    """The names from the setting `models`: a table of our names and the upstream's; names and patterns with `*` of the
    models that the upstream lists; or one of its names. Without it, the folder's name is also the upstream's."""

    def __init__(self, models: Mapping[str, str] | list[str] | str | None, folder: str) -> None:
        """Raises ValueError for a name that no model can have."""
        self._upstream_names: dict[str, str] = {}
        patterns = []
        match models:
            case None:
                self._upstream_names[folder] = folder
            case str():
                if "*" in models:
                    patterns.append(models)
                else:
                    self._upstream_names[folder] = models
            case list():
                patterns = [name for name in models if "*" in name]
                self._upstream_names.update((name, name) for name in models if "*" not in name)
            case _:
                self._upstream_names.update(models)
        for name in self._upstream_names:
            if problem := name_problem(name):
                raise ValueError(f"models: {name[:100]!r}: {problem}")
        self._pattern = re.compile("|".join(".*".join(map(re.escape, name.split("*"))) for name in patterns))
        self.needs_list = bool(patterns)
        """Whether the upstream's list decides which models there are."""

    @property
    def served(self) -> list[str]:
        return list(self._upstream_names)

    def update(self, listed: Iterable[str]) -> None:
        """Adds the listed models that match. A model that isn't listed any more is left out."""
        if not self.needs_list:
            return
        fixed = {name: upstream for name, upstream in self._upstream_names.items() if not self._pattern.fullmatch(name)}
        matching = {name: name for name in listed if self._pattern.fullmatch(name)}
        self._upstream_names = {**fixed, **matching}

    def upstream_name(self, served: str) -> str | None:
        return self._upstream_names.get(served)


def listed_names(body: Any) -> list[str] | None:
    """The names in the answer to `GET /models`, without those that no model can have; None if it is no list of
    models."""
    if isinstance(body, dict):
        body = next((body[key] for key in ("data", "models") if isinstance(body.get(key), list)), None)
    if not isinstance(body, list):
        return None
    names = (
        entry if isinstance(entry, str) else next((entry[key] for key in ("id", "model", "name") if entry.get(key)), "")
        for entry in body
        if isinstance(entry, str | dict)
    )
    usable = (name for name in names if isinstance(name, str) and not name_problem(name))
    return list(islice(dict.fromkeys(usable), MAX_LISTED))

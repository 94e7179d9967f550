"""Chooses the dialect of each model. PURE apart from reading the built-in files, once.

The order: the option for the model, the operator's mapping files, the tasks for chats, this project's contract for
prompts, the built-in files, the tensors of a chat.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from openai_server.backends.dialects.anyserve import dialect as own
from openai_server.backends.dialects.base import Dialect, Recognized
from openai_server.backends.dialects.chat import dialect as chats
from openai_server.backends.dialects.description import Description

if TYPE_CHECKING:
    from openai_server.backends.dialects.mapping.schema import MappingFile


class Dialects:
    """`chosen`: model → name of its dialect, from the options. `files`: mapping files of the operator. Raises KeyError
    for an unknown name in `chosen`."""

    def __init__(self, chosen: Mapping[str, str] | None = None, files: "Sequence[MappingFile]" = ()) -> None:
        self._chosen = dict(chosen or {})
        self._files = files
        for name in self._chosen.values():
            if name not in self.names():
                raise KeyError(name)

    def names(self) -> list[str]:
        """The names for `--dialect`."""
        return list(dict.fromkeys([own.NAME, chats.NAME, *(file.name for file in self._all())]))

    def of(self, description: Description) -> Recognized | None:
        """None: no dialect fits the model. Raises UnusableModel if the option or a mapping file names a dialect for the
        model that doesn't fit it."""
        base = description.model
        name = self._chosen.get(f"{base}@{description.version}") or self._chosen.get(base)
        if name is not None:
            return Recognized(self._named(name, description), "the option --dialect names it")
        for file in self._files:
            if (found := _recognized(file, description)) is not None:
                return found
        found = chats.recognize_task(description) or own.recognize(description)
        recognized = (_recognized(file, description) for file in _builtin_files())
        return found or next(filter(None, recognized), None) or chats.recognize_tensors(description)

    def _named(self, name: str, description: Description) -> Dialect:
        if name == own.NAME:
            return own.bound(description)
        if name == chats.NAME:
            return chats.Chat(description)
        from openai_server.backends.dialects.mapping.dialect import Mapped

        return Mapped(next(file for file in self._all() if file.name == name), description)

    def _all(self) -> "Iterator[MappingFile]":
        yield from self._files
        yield from _builtin_files()


# ---- Imported only when they are called, since the bundled worker needs nothing of mapping files


def _recognized(file: "MappingFile", description: Description) -> Recognized | None:
    from openai_server.backends.dialects.mapping.recognize import recognize

    return recognize(file, description)


def _builtin_files() -> "Iterable[MappingFile]":
    from openai_server.backends.dialects.mapping.load import builtin_files

    return builtin_files().values()

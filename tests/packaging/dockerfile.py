"""Reads the stages of a Dockerfile, and the instructions of each stage."""

import json
import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from string import Template


@dataclass
class Stage:
    """One stage. The instructions before the first FROM are a stage with an empty name and no parent.

    In `parent`, arguments have their defaults.
    """

    name: str
    parent: str
    instructions: list[tuple[str, str]] = field(default_factory=list)

    def all(self, instruction: str) -> list[str]:
        return [rest for word, rest in self.instructions if word == instruction]

    @property
    def environment(self) -> dict[str, str]:
        return self._pairs("ENV")

    @property
    def labels(self) -> dict[str, str]:
        return self._pairs("LABEL")

    @property
    def arguments(self) -> dict[str, str]:
        """ARGs that have a default, by name."""
        return self._pairs("ARG")

    def _pairs(self, instruction: str) -> dict[str, str]:
        words = [word for rest in self.all(instruction) for word in shlex.split(rest)]
        return dict(word.split("=", 1) for word in words if "=" in word)

    @property
    def copies(self) -> list[tuple[str, list[str]]]:
        """(stage copied from, or "" for the build's context; sources) of each COPY."""
        found = []
        for rest in self.all("COPY"):
            words = shlex.split(rest)
            origin = [word.partition("=")[2] for word in words if word.startswith("--from=")]
            found.append((origin[0] if origin else "", [word for word in words if not word.startswith("--")][:-1]))
        return found


def read_stages(path: Path) -> dict[str, Stage]:
    """Stages by name, in the order of the file."""
    text = re.sub(r"^\s*#.*\n", "", path.read_text(), flags=re.MULTILINE)
    stage = Stage("", "")
    stages: dict[str, Stage] = {"": stage}
    for line in text.replace("\\\n", " ").splitlines():
        word, _, rest = line.strip().partition(" ")
        if word == "FROM":
            parent, name = re.split(r"\s+AS\s+", rest)
            parent = Template(parent).substitute(stages[""].arguments)
            stage = stages[name] = Stage(name, parent)
        elif word:
            stage.instructions.append((word, rest.strip()))
    return stages


def with_ancestors(stages: dict[str, Stage], name: str) -> Stage:
    """The stage with all inherited instructions, oldest first."""
    stage = stages[name]
    if stage.parent not in stages:
        return stage
    parent = with_ancestors(stages, stage.parent)
    return Stage(name, parent.parent, [*parent.instructions, *stage.instructions])


def exec_form(rest: str) -> list[str]:
    """The command of an instruction in JSON form. Another form would run in a shell, which doesn't forward signals."""
    command = json.loads(rest[rest.index("[") :])
    assert isinstance(command, list)
    assert all(isinstance(word, str) for word in command)
    return command

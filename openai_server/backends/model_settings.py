"""The operator's settings for models, which replace or complete the parameters that a backend reports. PURE."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import TypeVar

from openai_server.core.model_files import EVERY_MODEL, LOCAL_TOKENIZER
from protos.contract import TASK_DETOKENIZE, TASK_GENERATE, TASK_TOKENIZE

_TEMPLATES = ("chat_template", "chat_template_tool_use")
_NOTHING: Mapping[str, str] = MappingProxyType({})
T = TypeVar("T")


class ModelSettings:
    """`templates` are sources of chat templates by model; EVERY_MODEL is the name for all others. They replace what a
    backend reports. `described` are parameters by model, for what it doesn't report.

    What is set for a model NAME holds for each version NAME@VERSION that has nothing of its own.
    """

    def __init__(
        self, templates: Mapping[str, str] = _NOTHING, described: Mapping[str, Mapping[str, str]] = MappingProxyType({})
    ) -> None:
        self._templates = dict(templates)
        self._described = dict(described)

    def applied(self, name: str, reported: Mapping[str, str]) -> dict[str, str]:
        """The parameters of the model, completed and replaced."""
        described = _for(name, self._described) or _NOTHING
        parameters = {**described, **{key: value for key, value in reported.items() if value}}
        if reported.get("chat_template") and "chat_template_tool_use" not in reported:
            parameters.pop("chat_template_tool_use", None)  # belongs to another template
        if LOCAL_TOKENIZER in described:
            tasks = reported.get("tasks", TASK_GENERATE).split(",")
            if TASK_TOKENIZE in tasks and TASK_DETOKENIZE in tasks:
                del parameters[LOCAL_TOKENIZER]
            else:
                parameters["tasks"] = ",".join(dict.fromkeys((*tasks, TASK_TOKENIZE, TASK_DETOKENIZE)))
        if template := _for(name, self._templates):
            parameters = {key: value for key, value in parameters.items() if key not in _TEMPLATES}
            parameters["chat_template"] = template
        return parameters

    def template_option(self, name: str, template: str) -> str:
        """The option that set the template of this model; empty if none did."""
        if _for(name, self._templates) == template:
            return "--chat-template"
        described = _for(name, self._described) or _NOTHING
        return "--tokenizer" if template in (described.get(key) for key in _TEMPLATES) else ""


def _for(name: str, settings: Mapping[str, T]) -> T | None:
    """The setting of the model, or that of its name without the version, or that of all models."""
    for key in (name, name.rpartition("@")[0], EVERY_MODEL):
        if key in settings:
            return settings[key]
    return None


NO_SETTINGS = ModelSettings()

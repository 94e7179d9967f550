"""Sets the streaming callback of a pipeline's components or of an Agent."""

import inspect
import os
from collections.abc import Callable, Sequence
from typing import Any

CALLBACK = "streaming_callback"
VARIABLE = "HAYHOOKS_STREAMING_COMPONENTS"
"""Environment variable with the default of `streaming_components`: `all`, or names with commas between them."""

Json = dict[str, Any]


def with_callbacks(
    pipeline: Any,
    arguments: Json | None,
    streaming_components: str | Sequence[str] | None,
    callback: Callable[[Any], Callable[..., Any]],
) -> Json:
    """A copy of the arguments in which the components that stream have a callback. `callback` returns that of a
    component. Raises ValueError and TypeError."""
    if not is_pipeline(pipeline):
        if not callable(getattr(pipeline, "run", None)):
            raise TypeError(f"a Pipeline or an Agent can be streamed, not a {type(pipeline).__qualname__}")
        return {**(arguments or {}), CALLBACK: callback(pipeline)}
    configured = dict(arguments or {})
    for name, component in _chosen(pipeline, streaming_components):
        configured[name] = {**configured.get(name, {}), CALLBACK: callback(component)}
    return configured


def is_pipeline(pipeline: Any) -> bool:
    """False: an Agent, or something with the same `run`."""
    return callable(getattr(pipeline, "walk", None))


def _chosen(pipeline: Any, chosen: str | Sequence[str] | None) -> list[tuple[str, Any]]:
    able = [(name, component) for name, component in pipeline.walk() if _streams(component)]
    if not able:
        raise ValueError("no component of the pipeline can stream: none has the input streaming_callback")
    if chosen is None:
        chosen = [name.strip() for name in os.environ.get(VARIABLE, "").split(",") if name.strip()] or None
    if chosen is None:
        return able[-1:]
    names = [chosen] if isinstance(chosen, str) else chosen
    if [name.lower() for name in names] == ["all"]:
        return able
    return [(name, component) for name, component in able if name in names]


def _streams(component: Any) -> bool:
    inputs = getattr(getattr(component, "__haystack_input__", None), "_sockets_dict", {})
    run = getattr(component, "run", None)
    return CALLBACK in inputs or (run is not None and CALLBACK in inspect.signature(run).parameters)

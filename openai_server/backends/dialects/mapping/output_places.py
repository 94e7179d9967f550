"""The places of outputs that a model has, as far as it reports its outputs. PURE."""

from typing import Any

from msgspec.structs import replace

from openai_server.backends.dialects.base import UnusableModel
from openai_server.backends.dialects.description import Description
from openai_server.backends.dialects.mapping.schema import Count, EndMark, Output, Outputs, Reason, Text
from protos.tensors import BYTES

_OPTIONAL = {
    "finish_reason": Reason,
    "prompt_tokens": Count,
    "completion_tokens": Count,
    "cached_tokens": Count,
    "error": Output,
}


def bind_outputs(outputs: Outputs, description: Description, *, are_listed: bool) -> Outputs:
    """The places without the tensors that the model lacks. `are_listed`: whether the model has no others than those
    that it reports. Raises UnusableModel if it lacks the text, or the mark of the end."""
    datatypes = {tensor.name: tensor.datatype for tensor in description.outputs}
    if not datatypes or not are_listed:
        return outputs
    text = place_of(outputs.text, Text)
    if not (names := [name for name in _names(text) if datatypes.get(name) in (BYTES, "")]):
        raise UnusableModel(f"it has no text output {' or '.join(_names(text))}")
    bound: dict[str, Any] = {"text": replace(text, tensor=names)}
    for field, kind in _OPTIONAL.items():
        place = getattr(outputs, field)
        if place is not None and place != "counts":
            known = [name for name in _names(place_of(place, kind)) if name in datatypes]
            bound[field] = replace(place_of(place, kind), tensor=known) if known else None
    if outputs.index not in datatypes:
        bound["index"] = None
    if outputs.logprobs is not None and outputs.logprobs.tensor not in datatypes:
        bound["logprobs"] = None
    changed = replace(outputs, **bound)
    if outputs.finish_reason == "counts" and changed.completion_tokens is None:
        changed = replace(changed, finish_reason=None)
    _check_end(changed, datatypes)
    return changed


def _check_end(outputs: Outputs, datatypes: dict[str, str]) -> None:
    end = outputs.end
    if isinstance(end, EndMark) and end.tensor is not None and end.tensor not in datatypes:
        raise UnusableModel(f"it has no output '{end.tensor}', which marks the end")
    if end == "finish_reason" and outputs.finish_reason is None:
        raise UnusableModel("it has no output for the finish reason, which marks the end")


def place_of(value: Any, kind: type[Any]) -> Any:
    """A place that a file may give as the name of a tensor alone."""
    return kind(tensor=value) if isinstance(value, str) else value


def _names(place: Output) -> list[str]:
    return [place.tensor] if isinstance(place.tensor, str) else place.tensor or []

"""Responses of `/v1/models`. PURE.

The fields that OpenAI's API doesn't have are named as in other servers: `max_model_len` as in vLLM, the others as in
llama-server. Values that the backend doesn't report are absent.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from msgspec import UNSET, Struct, UnsetType


class ModelMeta(Struct):
    n_vocab: int | UnsetType = UNSET
    n_ctx_train: int | UnsetType = UNSET
    n_embd: int | UnsetType = UNSET
    n_params: int | UnsetType = UNSET
    size: int | UnsetType = UNSET
    """Bytes of the weights."""


class Model(Struct, kw_only=True):
    id: str
    object: Literal["model"]
    created: int
    """Unix seconds."""
    owned_by: str
    max_model_len: int | UnsetType = UNSET
    capabilities: list[str]
    meta: ModelMeta | UnsetType = UNSET


class Models(Struct):
    object: Literal["list"]
    data: list[Model]
    models: list[Any] | UnsetType = UNSET
    """Codex' own descriptions of models; empty in a response to Codex, otherwise absent."""


_PARAMETERS = {
    "n_vocab": "vocab_size",
    "n_ctx_train": "context_length_trained",
    "n_embd": "embedding_length",
    "n_params": "parameter_count",
    "size": "size",
}
"""Field of ModelMeta → the backend's parameter with its value."""
_MAX_DIGITS = 18
"""Maximum digits of a number, so that it fits into 64 bits."""
_CAPABILITIES = {"generate": "completion", "embed": "embedding", "rank": "rerank"}


def model(name: str, created: int, tasks: Iterable[str], parameters: Mapping[str, str]) -> Model:
    """The model's entry. `created` is in Unix seconds, `parameters` are those that the backend reports."""
    numbers = {
        key: int(value)
        for key, value in parameters.items()
        if value.isascii() and value.isdecimal() and len(value) <= _MAX_DIGITS
    }
    meta = {field: numbers[parameter] for field, parameter in _PARAMETERS.items() if parameter in numbers}
    return Model(
        id=name,
        object="model",
        created=created,
        owned_by="anyserve",
        max_model_len=numbers.get("context_length", UNSET),
        capabilities=[_CAPABILITIES.get(task, task) for task in tasks],
        meta=ModelMeta(**meta) if meta else UNSET,
    )

"""The served models by name."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Protocol

from anyserve_common.text import shortened
from anyserve_worker.core.errors import UnknownModel
from anyserve_worker.service.served_model import MODEL_VERSION, ServedModel


class ModelSource(Protocol):
    """Models whose names may change while the worker runs."""

    @property
    def models(self) -> Mapping[str, ServedModel]: ...
    @property
    def tried(self) -> bool:
        """Whether each of them has been started once, with or without success."""


class Repository:
    """`models` must all be ready before the worker is. Those of `source` come after them, and a name in both is
    that of a model in `models`. The first model is the default."""

    def __init__(self, models: Iterable[ServedModel], source: ModelSource | None = None) -> None:
        self._models = {model.name: model for model in models}
        self._source = source

    def __iter__(self) -> Iterator[ServedModel]:
        if self._source is None:
            return iter(self._models.values())
        others = (model for name, model in self._source.models.items() if name not in self._models)
        return chain(self._models.values(), others)

    @property
    def ready(self) -> bool:
        return all(model.ready for model in self._models.values()) and (self._source is None or self._source.tried)

    @property
    def default(self) -> ServedModel:
        """Raises UnknownModel."""
        model = next(iter(self), None)
        if model is None:
            raise UnknownModel("no model is served here")
        return model

    def get(self, name: str, version: str = "") -> ServedModel:
        """Raises UnknownModel."""
        model = self._models.get(name)
        if model is None and self._source is not None:
            model = self._source.models.get(name)
        if model is None:
            served = ", ".join(model.name for model in self)
            raise UnknownModel(f"model '{shortened(name)}' is not served here; served: {served}")
        if version not in ("", MODEL_VERSION):
            raise UnknownModel(f"model '{name}' has no version '{shortened(version)}', only '{MODEL_VERSION}'")
        return model

"""Finding models by name, among those of the command line and those whose names may change."""

from pathlib import Path

import pytest

from anyserve_worker.core.errors import UnknownModel
from anyserve_worker.service.gguf_model import GGUFModel
from anyserve_worker.service.repository import Repository
from anyserve_worker.service.served_model import ServedModel, State


class ChangingModels:
    """A source of models."""

    def __init__(self, *names: str, tried: bool = True) -> None:
        self.models: dict[str, ServedModel] = {name: GGUFModel(name, Path()) for name in names}
        self.tried = tried


def repository_of(*names: str, source: ChangingModels | None = None) -> Repository:
    return Repository([GGUFModel(name, Path(name)) for name in names], source)


def test_the_first_model_is_the_default() -> None:
    repository = repository_of("a", "b")
    assert repository.default is repository.get("a")
    assert [model.name for model in repository] == ["a", "b"]


def test_a_model_has_one_version() -> None:
    repository = repository_of("a")
    assert repository.get("a", "") is repository.get("a", "1")
    with pytest.raises(UnknownModel, match="model 'a' has no version '2', only '1'"):
        repository.get("a", "2")


def test_an_unknown_name_is_answered_with_the_served_names() -> None:
    with pytest.raises(UnknownModel, match=r"^model 'c' is not served here; served: a, b$"):
        repository_of("a", "b").get("c")


def test_a_repository_is_ready_when_all_its_models_are() -> None:
    repository = repository_of("a", "b")
    repository.get("a").state = State.READY
    assert not repository.ready
    repository.get("b").state = State.READY
    assert repository.ready


def test_models_of_a_source_come_last_and_may_change() -> None:
    source = ChangingModels("b", "c")
    repository = repository_of("a", "b", source=source)
    assert [model.name for model in repository] == ["a", "b", "c"]
    assert repository.get("b") is not source.models["b"]
    assert repository.get("c") is source.models["c"]
    del source.models["c"]
    with pytest.raises(UnknownModel, match=r"^model 'c' is not served here; served: a, b$"):
        repository.get("c")


def test_without_other_models_the_first_of_a_source_is_the_default() -> None:
    source = ChangingModels("c")
    repository = repository_of(source=source)
    assert repository.default is source.models["c"]
    source.models.clear()
    with pytest.raises(UnknownModel, match="no model is served here"):
        _ = repository.default


def test_a_repository_is_ready_when_each_model_of_a_source_was_tried() -> None:
    source = ChangingModels("c", tried=False)
    repository = repository_of(source=source)
    assert not repository.ready
    source.tried = True
    assert repository.ready

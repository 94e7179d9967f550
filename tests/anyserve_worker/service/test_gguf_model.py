"""Loading and closing GGUF models, with stand-ins for llama.cpp."""

import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from anyserve_worker.core.errors import InvalidRequest, LoadError, ModelNotReady
from anyserve_worker.core.options import ModelOptions
from anyserve_worker.service import gguf_model as gguf_module
from anyserve_worker.service.gguf_model import MAX_PROBLEM, GGUFModel, GGUFModels
from anyserve_worker.service.served_model import State
from protos import contract

OPTIONS = ModelOptions()
TEXTS = (contract.TASK_TOKENIZE, contract.TASK_DETOKENIZE)


class Native:
    """Stands in for llama.cpp and logs the operations in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.log: list[str] = []
        self.tasks: tuple[str, ...] = (contract.TASK_GENERATE, contract.TASK_EMBED, *TEXTS)
        self.failure: Exception | None = None
        """Error when a model is opened; None to succeed."""
        self.failure_later: Exception | None = None
        """Error when a runner is warmed up; None to succeed."""
        self.thread: threading.Thread | None = None
        """Thread of the last load."""
        stand_ins: dict[str, Any] = {
            "Model": self._model,
            "ModelRunner": lambda model, options, threads: self._runner(f"runner of {model.name}"),
            "EmbeddingRunner": lambda model, options, threads: self._runner(f"vectors of {model.name}"),
            "Engine": self._engine,
        }
        for name, make in stand_ins.items():
            monkeypatch.setattr(gguf_module, name, make)

    def _model(self, path: Path, options: ModelOptions, on_progress: Callable[[float], bool]) -> Any:
        self.thread = threading.current_thread()
        if self.failure:
            raise self.failure
        if not on_progress(0.5):
            raise LoadError("given up")
        self.log.append(f"open {path.name}")
        return SimpleNamespace(
            name=path.name,
            tasks=self.tasks,
            vocabulary=SimpleNamespace(
                bos_text="<s>",
                eos_text="",
                pad_text="<pad>",
                adds_bos_token=False,
                n_vocab=9,
                special_texts=SimpleNamespace(control=["<s>"], user_defined=[]),
            ),
            chat_template=lambda name="": "",
            metadata=lambda key: "llama",
            description="a model",
            n_ctx_train=64,
            n_parameters=7,
            size=8,
            free=lambda: self.log.append(f"free {path.name}"),
        )

    def _runner(self, name: str) -> Any:
        return SimpleNamespace(
            n_ctx=32,
            pooling="mean",
            n_embedding=3,
            warm_up=lambda: self._warm_up(name),
            free=lambda: self.log.append(f"free {name}"),
        )

    def _warm_up(self, name: str) -> None:
        if self.failure_later:
            raise self.failure_later
        self.log.append(f"warm up {name}")

    def _engine(self, vocabulary: Any, runner: Any, *_: Any, **__: Any) -> Any:
        async def close() -> None:
            self.log.append("close engine")

        return SimpleNamespace(n_ctx=runner.n_ctx, n_cells=40, start=lambda: self.log.append("start"), close=close)


@pytest.fixture
def native(monkeypatch: pytest.MonkeyPatch) -> Native:
    return Native(monkeypatch)


def models_of(*names: str) -> GGUFModels:
    return GGUFModels([(name, Path(name)) for name in names], OPTIONS, 1)


async def load(gguf: GGUFModels, check: Callable[[Path], None] = lambda _: None) -> list[tuple[str, float]]:
    """Loads all models; returns (name, fraction) of each report."""
    reported: list[tuple[str, float]] = []

    def reporter(name: str) -> Callable[[float], None]:
        return lambda fraction: reported.append((name, fraction))

    await gguf.load(reporter, check)
    return reported


def refuse(path: Path) -> None:
    """A check that fails."""
    raise LoadError(f"{path}: it crashes")


# ---- Loading


async def test_models_are_loaded_one_at_a_time_off_the_event_loop(native: Native) -> None:
    gguf = models_of("a", "b")
    assert not any(model.ready for model in gguf.models)
    assert await load(gguf) == [("a", 0.5), ("b", 0.5)]
    assert native.log == ["open a", "warm up runner of a", "start", "open b", "warm up runner of b", "start"]
    assert native.thread is not threading.current_thread()
    assert all(model.ready for model in gguf.models)


async def test_a_model_that_does_not_generate_has_no_runner_for_it(native: Native) -> None:
    native.tasks = (contract.TASK_EMBED, *TEXTS)
    gguf = models_of("a")
    await load(gguf)
    assert native.log == ["open a", "warm up vectors of a", "start"]
    assert gguf.models[0].tasks == native.tasks


async def test_the_description_of_a_ready_model_leaves_out_unknown_values(native: Native) -> None:
    gguf = models_of("a")
    await load(gguf)
    config = gguf.models[0].config
    assert (config["bos_token"], config["context_length"], config["embedding_length"]) == ("<s>", "32", "3")
    assert (config["add_bos_token"], config["pad_token"]) == ("false", "<pad>")
    assert config["tasks"] == "generate,embed,tokenize,detokenize"
    assert "eos_token" not in config


async def test_a_file_is_checked_before_it_is_opened(native: Native) -> None:
    gguf = models_of("a", "b")
    with pytest.raises(LoadError, match=r"^model 'a': a: it crashes$"):
        await load(gguf, refuse)
    assert native.log == []


async def test_the_first_failure_ends_the_load_and_is_kept_as_the_reason(native: Native) -> None:
    native.failure = LoadError("no room")
    gguf = models_of("a", "b")
    with pytest.raises(LoadError, match="no room"):
        await load(gguf)
    assert [(model.state, model.reason) for model in gguf.models] == [
        (State.UNAVAILABLE, "model 'a': no room"),
        (State.LOADING, ""),
    ]
    with pytest.raises(ModelNotReady, match=r"^model 'a' is unavailable: model 'a': no room$"):
        _ = gguf.models[0].engine


async def test_any_error_with_a_file_is_one_short_line(native: Native) -> None:
    native.failure = ValueError("first\nsecond\x1b" + "x" * 5000)
    with pytest.raises(LoadError) as caught:
        await load(models_of("a"))
    assert str(caught.value).startswith("model 'a': a: cannot be used: ValueError: first")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) <= MAX_PROBLEM


async def test_a_cancelled_load_ends_at_the_next_progress_report(native: Native) -> None:
    gguf = models_of("a", "b")
    gguf.cancel_loading()
    with pytest.raises(LoadError, match="given up"):
        await load(gguf)
    assert native.log == []


def test_a_loading_model_has_no_engine() -> None:
    with pytest.raises(ModelNotReady, match=r"^model 'a' is loading$"):
        _ = models_of("a").models[0].engine


def test_a_model_has_only_the_tasks_of_its_file() -> None:
    model = GGUFModel("a", Path(), State.READY, tasks=(contract.TASK_RANK, *TEXTS))
    assert model.task(contract.TASK_RANK) == contract.TASK_RANK
    for requested in (None, contract.TASK_GENERATE):
        with pytest.raises(
            InvalidRequest, match=r"^model 'a' does not support 'generate', only rank, tokenize, detokenize$"
        ):
            model.task(requested)


# ---- Closing


async def test_the_engine_is_closed_before_its_runner_and_model_are_freed(native: Native) -> None:
    gguf = models_of("a")
    await load(gguf)
    native.log.clear()
    await gguf.close()
    assert native.log == ["close engine", "free runner of a", "free vectors of a", "free a"]
    assert not any(model.ready for model in gguf.models)
    with pytest.raises(ModelNotReady, match="unavailable"):
        _ = gguf.models[0].engine


async def test_closing_frees_the_models_of_a_failed_load(native: Native) -> None:
    native.failure_later = LoadError("it computes nothing")
    gguf = models_of("a", "b")
    with pytest.raises(LoadError, match="it computes nothing"):
        await load(gguf)
    await gguf.close()
    assert native.log == ["open a", "free runner of a", "free vectors of a", "free a"]

"""The served models: names, states and loading."""

import asyncio
import enum
import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from anyserve_common.logs import log_fields
from anyserve_common.text import printable, shortened
from anyserve_worker.core.errors import InvalidRequest, LoadError, ModelNotReady, UnknownModel
from anyserve_worker.core.options import ModelOptions
from anyserve_worker.engine.engine import Engine
from anyserve_worker.engine.running_request import RunningGeneration
from anyserve_worker.llama.embedding_runner import EmbeddingRunner, NoGeneration
from anyserve_worker.llama.model import Model
from anyserve_worker.llama.model_runner import ModelRunner
from anyserve_worker.llama.native import library
from anyserve_worker.threads.chooser import ThreadChooser
from anyserve_worker.threads.processors import IdleMeter
from protos import contract

log = logging.getLogger(__name__)

MODEL_VERSION = "1"
"""The only version: GGUF files have none, and KServe requires one."""
MAX_USER_DEFINED_BYTES = 256 << 10
"""Bytes of `user_defined_tokens` in a model's parameters. Clients may refuse messages above 4 MiB."""
MAX_PROBLEM = 1000
"""Characters of the reason why a model can't be loaded."""


class State(enum.Enum):
    """The states of a model, named as in Triton's RepositoryIndex."""

    LOADING = "LOADING"
    READY = "READY"
    UNAVAILABLE = "UNAVAILABLE"


@dataclass(slots=True, eq=False)
class ServedModel:
    name: str
    path: Path
    state: State = State.LOADING
    reason: str = ""
    config: dict[str, str] = field(default_factory=dict)
    """Values of contract.CONFIG_PARAMETERS; those that are unknown are absent."""
    tasks: tuple[str, ...] = (contract.TASK_GENERATE,)
    """Tasks that the model supports; set when it is ready."""
    on_end: Callable[[str, RunningGeneration], None] = lambda _, __: None
    """Called with the model's name and each generation that has ended."""
    load_seconds: float = 0
    max_threads: int = 0
    """Maximum threads of a step; set when the model is loaded."""
    load_cancelled: bool = False
    """Makes loading end early, with a LoadError."""
    _threads: ThreadChooser | None = None
    _vector_threads: ThreadChooser | None = None
    _model: Model | None = None
    _runner: ModelRunner | NoGeneration | None = None
    _vector_runner: EmbeddingRunner | None = None
    _engine: Engine | None = None

    @property
    def ready(self) -> bool:
        return self.state is State.READY

    @property
    def engine(self) -> Engine:
        """Raises ModelNotReady."""
        if self._engine is None or not self.ready:
            raise ModelNotReady(
                f"model '{self.name}' is {self.state.value.lower()}{self.reason and ': ' + self.reason}"
            )
        return self._engine

    def engine_for(self, task: str) -> Engine:
        """Raises ModelNotReady, or InvalidRequest if the model doesn't support the task."""
        engine = self.engine
        if task not in self.tasks:
            raise InvalidRequest(f"model '{self.name}' does not support '{task}', only {', '.join(self.tasks)}")
        return engine

    def load(
        self,
        options: ModelOptions,
        threads: int,
        check: Callable[[Path], None],
        on_progress: Callable[[float], None],
    ) -> None:
        """Loads the file; a large one blocks for seconds. `check` is called first and may raise LoadError.

        Raises LoadError, which names the model.
        """
        try:
            check(self.path)
            with library.ends_in_one_line(f"model '{self.name}': {self.path}"):
                self._load(options, threads, on_progress)
        except LoadError as error:
            raise LoadError(_one_line(f"model '{self.name}': {error}")) from error
        except Exception as error:  # A damaged file can cause any exception.
            log.debug("loading failed", exc_info=True)
            problem = f"model '{self.name}': {self.path}: cannot be used: {type(error).__name__}: {error}"
            raise LoadError(_one_line(problem)) from error

    def _load(self, options: ModelOptions, threads: int, on_progress: Callable[[float], None]) -> None:
        def progress(fraction: float) -> bool:
            on_progress(fraction)
            return not self.load_cancelled

        self.max_threads = threads
        self._threads = ThreadChooser.of(options.threads, options.threads_batch, threads, IdleMeter())
        self._vector_threads = ThreadChooser.of(options.threads, options.threads_batch, threads, IdleMeter())
        self._model = Model(self.path, options, progress)
        self._vector_runner = EmbeddingRunner(self._model, options, threads)
        if contract.TASK_GENERATE in self._model.tasks:
            self._runner = ModelRunner(self._model, options, threads)
            self._runner.warm_up()
        else:
            self._runner = NoGeneration(self._vector_runner.n_ctx)
            self._vector_runner.warm_up()

    def start(self, options: ModelOptions) -> None:
        """Starts the engine. Called on the event loop, after `load`."""
        assert self._model is not None
        assert self._runner is not None
        assert self._vector_runner is not None
        assert self._threads is not None
        self._engine = Engine(
            self._model.vocabulary,
            self._runner,
            options,
            self._threads,
            vector_runner=self._vector_runner,
            vector_threads=self._vector_threads,
            on_end=partial(self.on_end, self.name),
        )
        self._engine.start()
        self.tasks = self._model.tasks
        description = self._describe(self._model, self._runner.n_ctx, self._vector_runner)
        self.config = {name: value for name, value in description.items() if value}
        self.state = State.READY

    def _describe(self, model: Model, n_ctx: int, vector_runner: EmbeddingRunner) -> dict[str, str]:
        embeds, vocabulary = contract.TASK_EMBED in model.tasks, model.vocabulary
        templates = model.chat_template() + model.chat_template("tool_use")
        user_defined = _fitting_texts(vocabulary.special_texts.user_defined, templates)
        description = {
            "chat_template": model.chat_template(),
            "chat_template_tool_use": model.chat_template("tool_use"),
            "bos_token": vocabulary.bos_text,
            "eos_token": vocabulary.eos_text,
            "pad_token": vocabulary.pad_text,
            "add_bos_token": str(vocabulary.adds_bos_token).lower(),
            "control_tokens": json.dumps(vocabulary.special_texts.control, ensure_ascii=False),
            "user_defined_tokens": json.dumps(user_defined, ensure_ascii=False),
            "context_length": str(n_ctx),
            "vocab_size": str(vocabulary.n_vocab),
            "architecture": model.metadata("general.architecture"),
            "description": model.description,
            "loaded_at": str(int(time.time())),
            "tasks": ",".join(model.tasks),
            "pooling": vector_runner.pooling if embeds else "",
            "embedding_length": str(vector_runner.n_embedding) if embeds else "",
            "context_length_trained": str(model.n_ctx_train),
            "parameter_count": str(model.n_parameters),
            "size": str(model.size),
        }
        assert description.keys() == contract.CONFIG_PARAMETERS.keys()
        return description

    async def close(self) -> None:
        self.state = State.UNAVAILABLE
        if self._engine:
            await self._engine.close()
        for runner in (self._runner, self._vector_runner):
            if runner:
                runner.free()
        if self._model:
            self._model.free()


def _one_line(problem: str) -> str:
    """Makes the problem printable and short, since it may quote the file."""
    return shortened(printable(problem), MAX_PROBLEM)


def _fitting_texts(texts: Iterable[str], templates: str) -> list[str]:
    """Returns as many texts as MAX_USER_DEFINED_BYTES allows, those in the chat templates first."""
    fitting, n_left = [], MAX_USER_DEFINED_BYTES
    for text in sorted(texts, key=lambda text: text not in templates):
        n_left -= len(text.encode()) + len('"", ')
        if n_left < 0:
            break
        fitting.append(text)
    return fitting


def _model_fields(model: ServedModel, options: ModelOptions) -> dict[str, object]:
    engine, config = model.engine, model.config
    fixed_threads = [threads for threads in (options.threads, options.threads_batch) if threads]
    return {
        "context": engine.n_ctx,
        "context_trained": config.get("context_length_trained"),
        "kv_cells": engine.n_cells,
        "parallel": options.parallel,
        "threads": "/".join(map(str, fixed_threads)) if fixed_threads else f"auto, at most {model.max_threads}",
        "tasks": ",".join(model.tasks),
        "load_seconds": model.load_seconds,
    }


class Repository:
    """Models by name, in the order of the options. The first is the default."""

    def __init__(
        self, models: Iterable[tuple[str, Path]], on_end: Callable[[str, RunningGeneration], None] = lambda _, __: None
    ) -> None:
        self._models = {name: ServedModel(name, path, on_end=on_end) for name, path in models}

    def __iter__(self) -> Iterator[ServedModel]:
        return iter(self._models.values())

    @property
    def ready(self) -> bool:
        return all(model.ready for model in self._models.values())

    @property
    def default(self) -> ServedModel:
        return next(iter(self._models.values()))

    def get(self, name: str, version: str = "") -> ServedModel:
        """Raises UnknownModel."""
        model = self._models.get(name)
        if model is None:
            raise UnknownModel(f"model '{shortened(name)}' is not served here; served: {', '.join(self._models)}")
        if version not in ("", MODEL_VERSION):
            raise UnknownModel(f"model '{name}' has no version '{shortened(version)}', only '{MODEL_VERSION}'")
        return model

    async def load(
        self,
        options: ModelOptions,
        threads: int,
        reporter: Callable[[str], Callable[[float], None]],
        check: Callable[[Path], None],
    ) -> None:
        """Loads the models one after the other. Raises LoadError.

        `reporter` returns the progress callback of a model's name. `check` is called with each path before it is
        loaded, on a thread, and raises LoadError for an unusable file.
        """
        loop = asyncio.get_running_loop()
        for model in self._models.values():
            try:
                started = time.monotonic()
                # The thread ends after loading: OpenMP keeps a pool per thread that has computed, and if there are
                # more pooled threads than processors, all of them sleep instead of spinning.
                with ThreadPoolExecutor(1) as loader:
                    await loop.run_in_executor(loader, model.load, options, threads, check, reporter(model.name))
            except LoadError as error:
                model.state, model.reason = State.UNAVAILABLE, str(error)
                raise
            model.load_seconds = round(time.monotonic() - started, 3)
            model.start(options)
            ready = f"model '{model.name}' is ready: {model.config['description']}"
            log_fields(log, logging.INFO, ready, _model_fields(model, options))

    def cancel_loading(self) -> None:
        """Makes a running `load` end early."""
        for model in self._models.values():
            model.load_cancelled = True

    async def close(self) -> None:
        """Must not be called while `load` is running."""
        for model in self._models.values():
            await model.close()

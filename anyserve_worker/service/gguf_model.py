"""Served models that are GGUF files: loading, and requests to their engines."""

import asyncio
import json
import logging
import time
from collections.abc import AsyncGenerator, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from anyserve_common.logs import log_fields
from anyserve_common.text import printable, shortened
from anyserve_worker.core.errors import LoadError
from anyserve_worker.core.options import ModelOptions
from anyserve_worker.core.origin import Metadata, read_origin
from anyserve_worker.engine.engine import Engine
from anyserve_worker.engine.running_request import RunningGeneration
from anyserve_worker.engine.stats import EngineLoad, EngineStats
from anyserve_worker.llama.embedding_runner import EmbeddingRunner, NoGeneration
from anyserve_worker.llama.model import Model
from anyserve_worker.llama.model_runner import ModelRunner
from anyserve_worker.llama.native import library
from anyserve_worker.service import step_batch
from anyserve_worker.service.gguf_answers import run_task, stream_responses
from anyserve_worker.service.request import parse, tensor_error
from anyserve_worker.service.responder import Outputs, Responder
from anyserve_worker.service.served_model import ServedModel, State
from anyserve_worker.service.tasks import parse as parse_task
from anyserve_worker.threads.chooser import ThreadChooser
from anyserve_worker.threads.processors import IdleMeter
from protos import contract
from protos.grpc_predict_v2_pb2 import ModelInferRequest, ModelInferResponse

log = logging.getLogger(__name__)

PLATFORM = "llama_cpp"
MAX_USER_DEFINED_BYTES = 256 << 10
"""Bytes of `user_defined_tokens` in a model's parameters. Clients may refuse messages above 4 MiB."""
MAX_PROBLEM = 1000
"""Characters of the reason why a model can't be loaded."""


class GGUFModel(ServedModel):
    platform = PLATFORM

    def __init__(
        self,
        name: str,
        path: Path,
        state: State = State.LOADING,
        *,
        tasks: tuple[str, ...] = (contract.TASK_GENERATE,),
        on_end: Callable[[str, RunningGeneration], None] = lambda _, __: None,
    ) -> None:
        """`on_end` is called with the model's name and each generation that has ended."""
        super().__init__(name, state, tasks)
        self.path = path
        self.on_end = on_end
        self.max_threads = 0
        """Maximum threads of a step; set when the model is loaded."""
        self.load_cancelled = False
        """Makes loading end early, with a LoadError."""
        self._threads: ThreadChooser | None = None
        self._vector_threads: ThreadChooser | None = None
        self._model: Model | None = None
        self._runner: ModelRunner | NoGeneration | None = None
        self._vector_runner: EmbeddingRunner | None = None
        self._engine: Engine | None = None

    @property
    def engine(self) -> Engine:
        """Raises ModelNotReady."""
        self.require_ready()
        assert self._engine is not None
        return self._engine

    # ---- Requests

    @property
    def load(self) -> EngineLoad:
        return self.engine.load

    @property
    def stats(self) -> EngineStats:
        return self.engine.stats

    def info(self) -> Outputs:
        step_kinds = self.engine.threads_chosen
        return [
            (contract.MODEL_NAME, [self.name.encode()]),
            (contract.N_CTX, [self.engine.n_ctx]),
            (contract.STEP_KIND, [b"prefill" if prompts else b"decode" for prompts, _, _ in step_kinds]),
            (contract.STEP_TOKENS, [tokens for _, tokens, _ in step_kinds]),
            (contract.STEP_THREADS, [threads for _, _, threads in step_kinds]),
        ]

    async def infer(self, request: ModelInferRequest, task: str, metadata: Metadata) -> ModelInferResponse:
        engine = self.engine
        engine.refuse_too_many_ids(task, request)
        responder = Responder(request, self.name, contract.TASKS[task].outputs)
        if task != contract.TASK_GENERATE:
            return responder.build(await run_task(engine, parse_task(task, request)))
        generation_request = parse(request)
        if generation_request.prompt_progress:
            raise tensor_error(contract.PROMPT_PROGRESS, "only in streams")
        generation = await engine.submit(generation_request, read_origin(request, metadata))
        try:
            return responder.unary([delta async for deltas in generation for delta in deltas])
        finally:
            generation.cancel()

    async def stream(
        self, request: ModelInferRequest, task: str, metadata: Metadata
    ) -> AsyncGenerator[tuple[ModelInferResponse, bool], None]:
        engine = self.engine
        engine.refuse_too_many_ids(task, request)
        responder = Responder(request, self.name, contract.STREAM_OUTPUTS)
        generation = await engine.submit(parse(request), read_origin(request, metadata))
        try:
            async for response, last in stream_responses(request, responder, generation):
                yield response, last
        finally:
            generation.cancel()

    async def submit(self, request: ModelInferRequest) -> RunningGeneration:
        engine = self.engine
        engine.refuse_too_many_ids(contract.TASK_GENERATE, request)
        generation_request = parse(request)
        step_batch.check_form(request)
        return await engine.submit(generation_request, read_origin(request))

    # ---- Loading

    def load_file(
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


def _model_fields(model: GGUFModel, options: ModelOptions) -> dict[str, object]:
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


class GGUFModels:
    """The models of all files, in the order of the options."""

    def __init__(self, paths: Iterable[tuple[str, Path]], options: ModelOptions, threads: int) -> None:
        """`paths`: (name, path) of each. `threads`: processors that this process may use."""
        self._options = options
        self._threads = threads
        self.models = [GGUFModel(name, path) for name, path in paths]

    async def load(self, reporter: Callable[[str], Callable[[float], None]], check: Callable[[Path], None]) -> None:
        """Loads the models one after the other. Raises LoadError.

        `reporter` returns the progress callback of a model's name. `check` is called with each path before it is
        loaded, on a thread, and raises LoadError for an unusable file.
        """
        loop = asyncio.get_running_loop()
        options = self._options
        for model in self.models:
            try:
                started = time.monotonic()
                # The thread ends after loading: OpenMP keeps a pool per thread that has computed, and if there are
                # more pooled threads than processors, all of them sleep instead of spinning.
                with ThreadPoolExecutor(1) as loader:
                    await loop.run_in_executor(
                        loader, model.load_file, options, self._threads, check, reporter(model.name)
                    )
            except LoadError as error:
                model.state, model.reason = State.UNAVAILABLE, str(error)
                raise
            model.load_seconds = round(time.monotonic() - started, 3)
            model.start(options)
            ready = f"model '{model.name}' is ready: {model.config['description']}"
            log_fields(log, logging.INFO, ready, _model_fields(model, options))

    def cancel_loading(self) -> None:
        """Makes a running `load` end early."""
        for model in self.models:
            model.load_cancelled = True

    async def close(self) -> None:
        """Must not be called while `load` is running."""
        for model in self.models:
            await model.close()

"""The endpoints: HTTP to a validated request, and its answer to HTTP."""

import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from os import urandom
from typing import Any

import orjson
from starlette.convertors import PathConvertor, register_url_convertor
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from anyserve_common.text import shortened
from openai_server.access.gate import CHARACTERS_PER_TOKEN, visit_of
from openai_server.api import responses, schemas, schemas_tasks
from openai_server.api.bodies.cost import UNCOUNTED_BYTES, VALUE_BYTES, structure
from openai_server.api.bodies.reader import Bodies
from openai_server.api.chat_message import JsonObject
from openai_server.api.generation import Generator, ResolvedModel
from openai_server.api.responses import AnswerIdentity, AnswerOptions, WholeAnswer
from openai_server.api.schemas import ChatRequest, CompletionRequest, GenerateRequest
from openai_server.api.stream_writers import ChatWriter, CompletionWriter, StreamWriter
from openai_server.api.tasks import Tasks
from openai_server.backends.catalog import Catalog
from openai_server.backends.directory import Model
from openai_server.core.answer import Answer
from openai_server.core.errors import (
    BackendError,
    BodyTooLarge,
    InvalidRequest,
    ShuttingDown,
    TooManyValues,
    Unavailable,
    UnsupportedEncoding,
    from_backend,
)
from openai_server.core.turn import Prompt, Turn
from openai_server.core.usage import Usage
from openai_server.http.connection import BODY_ERROR
from openai_server.http.streaming import CLIENT_CLOSED_REQUEST, ClientGone, EventStream, Write, unless_gone
from openai_server.telemetry import record

log = logging.getLogger(__name__)

MAX_LENGTH_DIGITS = 18
"""That are read of a body's length: Python reads no integer of more than 4300."""
MAX_TIME = 1 << 53
"""Seconds; a larger number is no time, nor a number that JSON has for every client."""


class JSON(Response):
    """Nearly every answer, so its headers are not made in Starlette's way, which takes longer than all the rest."""

    def __init__(self, content: object, status_code: int = 200, headers: Mapping[str, str] | None = None) -> None:
        self.status_code, self.background = status_code, None
        self.body = orjson.dumps(content)
        self.raw_headers = [(b"content-length", b"%d" % len(self.body)), (b"content-type", b"application/json")]
        if headers:
            self.raw_headers += [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What differs between completions and chat."""

    parse: Callable[[bytes], CompletionRequest | ChatRequest]
    id_prefix: str
    whole: Callable[[AnswerIdentity, Sequence[Answer], AnswerOptions], WholeAnswer]
    writer: Callable[[AnswerIdentity, AnswerOptions], StreamWriter]


COMPLETIONS = Endpoint(schemas.parse_completion, "cmpl-", responses.completion, CompletionWriter)
CHAT = Endpoint(schemas.parse_chat, "chatcmpl-", responses.chat_completion, ChatWriter)


@dataclass(frozen=True, slots=True)
class TaskEndpoint:
    """An endpoint that generates nothing."""

    parse: Callable[[bytes], Any]
    id_prefix: str
    perform: Callable[[Tasks, Any, str], Coroutine[Any, Any, JsonObject]]


EMBEDDINGS = TaskEndpoint(schemas_tasks.parse_embedding, "embd-", Tasks.embed)
RERANK = TaskEndpoint(schemas_tasks.parse_rerank, "rerank-", Tasks.rerank)
TOKENIZE = TaskEndpoint(schemas_tasks.parse_tokenize, "tokenize-", Tasks.tokenize)
DETOKENIZE = TaskEndpoint(schemas_tasks.parse_detokenize, "detokenize-", Tasks.detokenize)
APPLY_TEMPLATE = TaskEndpoint(schemas_tasks.parse_template, "template-", Tasks.apply_template)

GENERATION = {
    "/v1/completions": COMPLETIONS,
    "/v1/chat/completions": CHAT,
    "/completions": COMPLETIONS,
    "/chat/completions": CHAT,
}
"""What nearly all requests are for; by path. Without /v1 for clients whose base URL has none, as everywhere below."""
TASKS = {
    "/v1/embeddings": EMBEDDINGS,
    "/embeddings": EMBEDDINGS,
    "/v1/rerank": RERANK,
    "/rerank": RERANK,
    "/tokenize": TOKENIZE,
    "/detokenize": DETOKENIZE,
    "/apply-template": APPLY_TEMPLATE,
}


class ModelName(PathConvertor):
    """A model's name in a path. It may have slashes but no empty segment, as `//` or a slash at the end would make."""

    regex = r"[^/]+(?:/[^/]+)*"


class LeadingModelName(PathConvertor):
    """The same at the beginning of a path, where a segment `v1` comes from a base URL and names no model either.

    What begins with `models/` or `engines/` is one of the other paths.
    """

    regex = r"(?!(?:models|engines)/)(?:(?!v1/)[^/]+/)*(?!v1/)[^/]+"


register_url_convertor("model", ModelName())
register_url_convertor("leading_model", LeadingModelName())

BY_MODEL: dict[str, Endpoint | TaskEndpoint] = {
    f"{prefix}/{name}": endpoint
    for prefix in (
        *("/v1/engines/{model:model}", "/engines/{model:model}"),
        *("/v1/models/{model:model}", "/models/{model:model}"),
        "/{model:leading_model}",
    )
    for name, endpoint in (
        ("chat/completions", CHAT),
        ("completions", COMPLETIONS),
        ("embeddings", EMBEDDINGS),
        ("chat", CHAT),
    )
}
"""The model is in the path: for openai 0.28 with `engine=`, below the model's own path, and by itself, with hayhooks'
`/chat` too. A model's name may have slashes: chat comes first, and the others' own paths before all of these."""


ENDPOINT_NAMES = {endpoint: path for path, endpoint in reversed((GENERATION | TASKS).items())}
"""The first path of each: what metrics and logs call it, whichever path was taken."""


class Routes:
    """`clock` gives Unix seconds. `draining` is set when the server has been told to end."""

    def __init__(
        self,
        catalog: Catalog,
        generator: Generator,
        tasks: Tasks,
        *,
        clock: Callable[[], float],
        bodies: Bodies,
        max_body_bytes: int,
        max_json_values: int,
    ) -> None:
        self._catalog = catalog
        self._generator = generator
        self._tasks = tasks
        self._clock = clock
        self._started_at = int(clock())
        self._bodies = bodies
        self._max_body_bytes = max_body_bytes
        self._max_json_values = max_json_values
        self._uncounted_bytes = min(UNCOUNTED_BYTES, max_json_values)
        self.draining = False

    def table(self) -> list[Route]:
        """The name of a route is that of its endpoint in metrics and logs."""
        endpoints: dict[str, Endpoint | TaskEndpoint] = {**GENERATION, **TASKS, **BY_MODEL}
        return [
            *(Route(path, self.models, name="/v1/models") for path in ("/v1/models", "/models")),
            *(
                Route(f"{path}/{{model:model}}", self.model, name="/v1/models/{model}")
                for path in ("/v1/models", "/models")
            ),
            *(
                Route(path, self._handler(endpoint), methods=["POST"], name=ENDPOINT_NAMES[endpoint])
                for path, endpoint in endpoints.items()
            ),
        ]

    def health_table(self) -> list[Route]:
        return [
            Route(path, handler, name=path)
            for path, handler in (("/livez", self.live), ("/readyz", self.ready), ("/health", self.ready))
        ]

    def _handler(self, endpoint: Endpoint | TaskEndpoint) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        if isinstance(endpoint, TaskEndpoint):
            return partial(self.perform, endpoint=endpoint)
        return partial(self.generate, endpoint=endpoint)

    # ---- Generation

    async def generate(self, http: Request, endpoint: Endpoint) -> Response:
        """Raises APIError, and so may the response."""
        visit = visit_of(http.scope)
        try:
            visit.count_request()
            body, n_values = await self._body(http)
            request: GenerateRequest = self._bodies.small(endpoint.parse, body, n_values) or await self._bodies.large(
                endpoint.parse, body, n_values, caller=visit.caller.id, receive=http.receive
            )
            turn = request.turn
            _take_model_from_path(turn, http.path_params)
            id = endpoint.id_prefix + urandom(16).hex()
            created = int(self._clock())
            if visit.is_limited:
                visit.reserve(_prompt_tokens(turn.prompts, len(body)), _output_tokens(turn))
            del body  # a stream may take minutes

            async def events(write: Write) -> None:
                async with visit:
                    await self._generator.stream(
                        turn,
                        id,
                        lambda model: endpoint.writer(
                            AnswerIdentity(id, created, model.name), _options(request, model)
                        ),
                        write,
                        visit.delivered,
                    )

            async def whole() -> tuple[ResolvedModel, list[Answer]]:
                async with visit:
                    model, answers = await self._generator.answer(turn, id)
                    if visit.is_limited:
                        usages = [answer.usage for answer in answers]
                        visit.delivered(usages, len(answers), 0 if None not in usages else _rough_tokens(answers))
                    return model, answers

            if request.stream:
                return EventStream(events)
            model, answers = await unless_gone(http.receive, whole())
            answer = endpoint.whole(AnswerIdentity(id, created, model.name), answers, _options(request, model))
            record.current().take_answer(answer.usage, answer.n_choices, answer.finish_reasons)
            return JSON(answer.content)
        except (ClientGone, ClientDisconnect):
            return Response(status_code=CLIENT_CLOSED_REQUEST)

    async def perform(self, http: Request, endpoint: TaskEndpoint) -> Response:
        """Raises APIError."""
        visit = visit_of(http.scope)
        try:
            visit.count_request()
            body, n_values = await self._body(http)
            request = self._bodies.small(endpoint.parse, body, n_values) or await self._bodies.large(
                endpoint.parse, body, n_values, caller=visit.caller.id, receive=http.receive
            )
            _take_model_from_path(request, http.path_params)
            id = endpoint.id_prefix + urandom(16).hex()
            visit.reserve(_prompt_tokens(_prompts(request), len(body)), 0)
            del body

            async def work() -> JsonObject:
                async with visit:
                    answer = await endpoint.perform(self._tasks, request, id)
                    n_tokens = (answer.get("usage") or {}).get("total_tokens")
                    visit.used(n_tokens)
                    record.current().take_answer(None if n_tokens is None else Usage(n_tokens, 0, None))
                    return answer

            return JSON(await unless_gone(http.receive, work()))
        except (ClientGone, ClientDisconnect):
            return Response(status_code=CLIENT_CLOSED_REQUEST)

    async def _body(self, http: Request) -> tuple[bytearray, int]:
        """The body and the number of its structural bytes, 0 for one that is too small to be counted.

        Raises BodyTooLarge and TooManyValues as soon as that is known, UnsupportedEncoding, Overloaded,
        ClientDisconnect, and the connection's error for a body that is late or broken.
        """
        visit = visit_of(http.scope)
        for name, value in http.scope["headers"]:
            if name == b"content-length" and value.isdigit() and int(value[:MAX_LENGTH_DIGITS]) > self._max_body_bytes:
                raise BodyTooLarge(self._max_body_bytes)
            if name == b"content-encoding" and not _is_identity(value):
                raise UnsupportedEncoding(value.decode("latin-1"))
        body, n_values, held, counting, more = bytearray(), 0, 0, False, True
        while more:
            message = await http.receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            body += (part := message.get("body", b""))
            more = message.get("more_body", False)
            if len(body) > self._max_body_bytes:
                raise BodyTooLarge(self._max_body_bytes)
            size = len(body)
            if size > self._uncounted_bytes:
                n_values += structure(part if counting else body)
                counting = True
                if n_values > self._max_json_values:
                    raise TooManyValues(self._max_json_values)
                size = max(size, n_values * VALUE_BYTES)
            visit.hold(size - held)
            held = size
        if error := http.scope.get(BODY_ERROR):
            raise error
        return body, n_values

    # ---- Models

    async def models(self, _: Request) -> Response:
        try:
            models = await self._catalog.all()
        except BackendError as error:
            raise from_backend(error, {}) from error
        return JSON(responses.models([self._described(model) for model in models]))

    async def model(self, request: Request) -> Response:
        try:
            model = await self._catalog.resolve(request.path_params["model"])
        except BackendError as error:
            raise from_backend(error, {}) from error
        return JSON(self._described(model))

    def _described(self, model: Model) -> JsonObject:
        return responses.model(model.name, self._created(model), model.tasks, model.parameters)

    def _created(self, model: Model) -> int:
        """When the model was loaded, or else when this process was."""
        loaded_at = model.parameters.get("loaded_at", "")
        try:
            created = int(float(loaded_at))
        except (ValueError, OverflowError):
            return self._started_at
        return created if 0 <= created < MAX_TIME else self._started_at

    # ---- Health

    async def live(self, _: Request) -> Response:
        return JSON({"status": "ok"})

    async def ready(self, _: Request) -> Response:
        """200 only if a request for the default model would be answered."""
        if self.draining:
            raise ShuttingDown
        try:
            await self._catalog.check_default()
        except BackendError as error:
            log.debug("not ready: %s: %s", error.status, error.message)
            raise Unavailable("The model backend can't answer at the moment.") from error
        return JSON({"status": "ok"})


def _is_identity(content_encoding: bytes) -> bool:
    return all(coding.strip(b" \t").lower() in (b"identity", b"") for coding in content_encoding.split(b","))


def _options(request: GenerateRequest, model: ResolvedModel) -> AnswerOptions:
    return AnswerOptions(request.turn.top_logprobs is not None, request.include_usage, model.format)


def _output_tokens(turn: Turn) -> int:
    """The most tokens that may be generated; 0 for a request without a limit of its own."""
    return (turn.token_limit or 0) * turn.n_generated * (len(turn.prompts) or 1)


def _prompts(request: schemas_tasks.TaskRequest | Turn) -> Sequence[Prompt]:
    """Those that may be token ids."""
    match request:
        case schemas_tasks.EmbeddingRequest():
            return request.prompts
        case schemas_tasks.DetokenizeRequest():
            return [request.tokens]
    return ()


def _prompt_tokens(prompts: Sequence[Prompt], body_size: int) -> int:
    """An estimate: token ids count as what they are, text by its length."""
    if prompts and not isinstance(prompts[0], str):
        return sum(map(len, prompts))
    return body_size // CHARACTERS_PER_TOKEN


def _rough_tokens(answers: Sequence[Answer]) -> int:
    """Where the backend does not count."""
    return sum(len(choice.text) for answer in answers for choice in answer.choices) // CHARACTERS_PER_TOKEN


def _take_model_from_path(request: Turn | schemas_tasks.TaskRequest, path: Mapping[str, str]) -> None:
    model = path.get("model")
    if not model:
        return
    if request.model and request.model != model:
        raise InvalidRequest(f"The path names the model '{shortened(model)}', the body another one.", param="model")
    request.model = model

"""The endpoints: HTTP to a validated request, and its answer to HTTP."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from secrets import token_hex

import orjson
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from openai_server import responses, schemas
from openai_server.backend import Backend
from openai_server.catalog import Catalog, Model
from openai_server.decode import Answer
from openai_server.delivery import ClientGone, EventStream, unless_gone
from openai_server.errors import (
    APIError,
    BackendError,
    BodyTooLarge,
    InvalidRequest,
    ModelNotFound,
    ShuttingDown,
    Unavailable,
    from_backend,
)
from openai_server.generation import AnyRequest, Generator, Source
from openai_server.responses import Chunks, Header, Object, Telling

log = logging.getLogger(__name__)

CLIENT_CLOSED_REQUEST = 499
"""nginx's status for a client that left; nobody sees it but the access log."""


class JSON(Response):
    media_type = "application/json"

    def render(self, content: object) -> bytes:
        return orjson.dumps(content)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What differs between completions and chat."""

    parse: Callable[[bytes], AnyRequest]
    id_prefix: str
    whole: Callable[[Header, Sequence[Answer], Telling], Object]
    chunks: Callable[[Header, Telling], Chunks]


COMPLETIONS = Endpoint(schemas.parse_completion, "cmpl-", responses.completion, responses.CompletionChunks)
CHAT = Endpoint(schemas.parse_chat, "chatcmpl-", responses.chat_completion, responses.chat_chunks)


GENERATION = {"/v1/completions": COMPLETIONS, "/v1/chat/completions": CHAT}
"""What nearly all requests are for; by path."""
GENERATION_BY_ENGINE = {
    "/v1/engines/{model:path}/chat/completions": CHAT,
    "/v1/engines/{model:path}/completions": COMPLETIONS,
}
"""`engine=` of openai 0.28 puts the model into the path. A model's name may have slashes: chat comes first."""


class Routes:
    """`clock` gives Unix seconds. `draining` is set when the server has been told to end."""

    def __init__(
        self,
        backend: Backend,
        catalog: Catalog,
        generator: Generator,
        *,
        clock: Callable[[], float],
        max_body_bytes: int,
    ) -> None:
        self._backend = backend
        self._catalog = catalog
        self._generator = generator
        self._clock = clock
        self._started_at = int(clock())
        self._max_body_bytes = max_body_bytes
        self.draining = False

    def table(self) -> list[Route]:
        paths = [*GENERATION.items(), *GENERATION_BY_ENGINE.items()]
        return [
            Route("/v1/models", self.models),
            Route("/v1/models/{model:path}", self.model),
            *(Route(path, partial(self.generate, endpoint=endpoint), methods=["POST"]) for path, endpoint in paths),
            Route("/livez", self.live),
            Route("/readyz", self.ready),
            Route("/health", self.ready),
        ]

    # ---- Generation

    async def generate(self, http: Request, endpoint: Endpoint) -> Response:
        """Raises APIError, and so may the response."""
        try:
            request = endpoint.parse(await self._body(http))
            _take_model_from_path(request, http.path_params)
            id = endpoint.id_prefix + token_hex(16)
            created = int(self._clock())
            if request.stream:
                return EventStream(
                    lambda write: self._generator.stream(
                        request,
                        id,
                        lambda source: endpoint.chunks(Header(id, created, source.model), _telling(request, source)),
                        write,
                    )
                )
            source, answers = await unless_gone(http.receive, self._generator.answer(request, id))
            return JSON(endpoint.whole(Header(id, created, source.model), answers, _telling(request, source)))
        except (ClientGone, ClientDisconnect):
            return Response(status_code=CLIENT_CLOSED_REQUEST)

    async def _body(self, http: Request) -> bytes:
        """Raises BodyTooLarge as soon as that is known."""
        announced = http.headers.get("content-length", "")
        if announced.isdecimal() and int(announced) > self._max_body_bytes:
            raise BodyTooLarge(self._max_body_bytes)
        body = bytearray()
        async for part in http.stream():
            body += part
            if len(body) > self._max_body_bytes:
                raise BodyTooLarge(self._max_body_bytes)
        return bytes(body)

    # ---- Models

    async def models(self, _: Request) -> Response:
        return JSON(responses.models([await self._described(name) for name in await self._names()]))

    async def model(self, request: Request) -> Response:
        if not (name := request.path_params["model"]):
            raise ModelNotFound(name)
        return JSON(await self._described(name))

    async def _names(self) -> tuple[str, ...]:
        try:
            return await self._catalog.names(fresh=True)
        except BackendError as error:
            raise self._failed(error) from error

    async def _described(self, name: str) -> Object:
        try:
            model = await self._catalog.resolve(name)
        except BackendError as error:
            raise self._failed(error) from error
        return responses.model(model.name, self._created(model))

    def _created(self, model: Model) -> int:
        """When the model was loaded, or else when this process was."""
        loaded_at = model.parameters.get("loaded_at", "")
        try:
            return int(float(loaded_at))
        except (ValueError, OverflowError):
            return self._started_at

    def _failed(self, error: BackendError) -> APIError:
        self._catalog.learn(error)
        return from_backend(error, {})

    # ---- Health

    async def live(self, _: Request) -> Response:
        return JSON({"status": "ok"})

    async def ready(self, _: Request) -> Response:
        """200 only if a request would be answered: the backend is there and its first model is ready."""
        if self.draining:
            raise ShuttingDown
        try:
            ready = await self._backend.ready(await self._catalog.first())
        except BackendError as error:
            self._catalog.learn(error)
            log.debug("not ready: %s: %s", error.status, error.message)
            ready = False
        if not ready:
            raise Unavailable("The model backend can't answer at the moment.")
        return JSON({"status": "ok"})


def _telling(request: AnyRequest, source: Source) -> Telling:
    return Telling(request.top_tokens is not None, request.include_usage, source.reading)


def _take_model_from_path(request: AnyRequest, path: Mapping[str, str]) -> None:
    model = path.get("model")
    if model and request.model and request.model != model:
        raise InvalidRequest(f"The path names the model '{model}', the body another one.", param="model")
    request.model = model or request.model

"""The registry entries of `/v1/models`, and their handlers."""

from starlette.responses import Response

from openai_server.api import endpoint
from openai_server.api.endpoint import Description, Endpoint, Handler, with_v1
from openai_server.api.examples import CREATED, SERVED
from openai_server.api.models import anthropic
from openai_server.api.models.answer import Model, Models, model
from openai_server.api.models.anthropic import AnthropicModel, AnthropicModels
from openai_server.api.query import query_of
from openai_server.api.services import Services
from openai_server.backends import directory
from openai_server.core.errors import BackendError, from_backend
from openai_server.core.request_context import RequestContext
from openai_server.http.json_response import JSONResponse

MAX_TIME = 1 << 53
"""Maximum time, in Unix seconds: the largest integer that every JSON parser reads exactly."""


CODEX_FIELD = "client_version"
"""Codex sends its version in the query, and refuses a response without an array `models`. Its entries need fields that
this server can't fill, such as Codex' own instructions for the model."""


def list_models(services: Services) -> Handler:
    async def handle(context: RequestContext) -> Response:
        query = query_of(context)
        try:
            models = await services.catalog.all()
        except BackendError as error:
            raise from_backend(error, {}) from error
        if _is_anthropic(context):
            by_name = {model.name: model for model in models}
            aliases = services.catalog.aliases()
            found = [(name, by_name[name]) for name in by_name]
            found += [(alias, by_name[name]) for alias, name in aliases.items() if name in by_name]
            return JSONResponse(anthropic.page([_for_anthropic(*entry, services) for entry in found], query))
        answer = Models("list", [_described(model, services) for model in models])
        if CODEX_FIELD in query:
            answer.models = []
        return JSONResponse(answer)

    return handle


def get_model(services: Services) -> Handler:
    async def handle(context: RequestContext) -> Response:
        try:
            found = await services.catalog.resolve(context.parameters["model"])
        except BackendError as error:
            raise from_backend(error, {}) from error
        if _is_anthropic(context):
            return JSONResponse(_for_anthropic(found.name, found, services))
        return JSONResponse(_described(found, services))

    return handle


def _is_anthropic(context: RequestContext) -> bool:
    return any(name == anthropic.VERSION_HEADER for name, _ in context.scope.get("headers", ()))


def _for_anthropic(name: str, model: directory.Model, services: Services) -> anthropic.AnthropicModel:
    """The entry of a model under its own name or an alias."""
    return anthropic.anthropic_model(name, model.name, _created(model, services), model.context_length)


def _described(found: directory.Model, services: Services) -> Model:
    return model(found.name, _created(found, services), found.tasks, found.parameters)


def _created(found: directory.Model, services: Services) -> int:
    return created(found.parameters.get("loaded_at", ""), services)


def created(loaded_at: str, services: Services) -> int:
    """Time at which the model was loaded, or if that is unknown, at which this process started; in Unix seconds."""
    try:
        loaded = int(float(loaded_at))
    except (ValueError, OverflowError):
        return services.started_at
    return loaded if 0 <= loaded < MAX_TIME else services.started_at


_EXAMPLE = {
    "id": SERVED,
    "object": "model",
    "created": CREATED,
    "owned_by": "anyserve",
    "max_model_len": 8192,
    "capabilities": ["completion", "embedding", "tokenize", "detokenize"],
    "meta": {
        "n_vocab": 49152,
        "n_ctx_train": 8192,
        "n_embd": 576,
        "n_params": 134515008,
        "size": 96576768,
    },
}

MODELS = Endpoint(
    paths=with_v1("/models"),
    method="GET",
    handler=list_models,
    description=Description(
        tag="Models",
        summary="The models that are served",
        answers=[Models, AnthropicModels],
        example={"object": "list", "data": [_EXAMPLE]},
        errors=endpoint.LOOKUP | {400},
    ),
)
MODEL = Endpoint(
    paths=with_v1("/models/{model}"),
    method="GET",
    handler=get_model,
    description=Description(
        tag="Models",
        summary="What a model can do",
        answers=[Model, AnthropicModel],
        example=_EXAMPLE,
        errors=endpoint.LOOKUP,
    ),
)

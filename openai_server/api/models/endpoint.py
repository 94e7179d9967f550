"""The registry entries of `/v1/models`, and their handlers."""

from starlette.responses import Response

from openai_server.api import endpoint
from openai_server.api.endpoint import Description, Endpoint, Handler, with_v1
from openai_server.api.examples import CREATED, SERVED
from openai_server.api.models.answer import Model, Models, model
from openai_server.api.services import Services
from openai_server.backends import directory
from openai_server.core.errors import BackendError, from_backend
from openai_server.core.request_context import RequestContext
from openai_server.http.json_response import JSONResponse

MAX_TIME = 1 << 53
"""Maximum time, in Unix seconds: the largest integer that every JSON parser reads exactly."""


def list_models(services: Services) -> Handler:
    async def handle(_: RequestContext) -> Response:
        try:
            models = await services.catalog.all()
        except BackendError as error:
            raise from_backend(error, {}) from error
        return JSONResponse(Models("list", [_described(model, services) for model in models]))

    return handle


def get_model(services: Services) -> Handler:
    async def handle(context: RequestContext) -> Response:
        try:
            found = await services.catalog.resolve(context.parameters["model"])
        except BackendError as error:
            raise from_backend(error, {}) from error
        return JSONResponse(_described(found, services))

    return handle


def _described(found: directory.Model, services: Services) -> Model:
    return model(found.name, created(found.parameters.get("loaded_at", ""), services), found.tasks, found.parameters)


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
        answers=[Models],
        example={"object": "list", "data": [_EXAMPLE]},
        errors=endpoint.LOOKUP,
    ),
)
MODEL = Endpoint(
    paths=with_v1("/models/{model}"),
    method="GET",
    handler=get_model,
    description=Description(
        tag="Models", summary="What a model can do", answers=[Model], example=_EXAMPLE, errors=endpoint.LOOKUP
    ),
)

"""Imports the handlers and descriptions of an API when they are first needed, since the types of a large one take
milliseconds and half a MiB, which the start-up and sidecars without such requests don't need."""

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import cast

from starlette.responses import Response

from openai_server.api.client_api import OPENAI, ClientApi
from openai_server.api.endpoint import Description, Endpoint, Handler, with_v1
from openai_server.api.services import Services
from openai_server.core.request_context import RequestContext


def handler_in(module: str, name: str) -> Callable[[Services], Handler]:
    """A function that returns the handler of the function `name` in a module. It is imported with the first request,
    on the event loop."""
    return partial(_DeferredHandler, module, name)


def description_in(module: str, name: str) -> Callable[[], Description]:
    """A function that returns the description `name` in a module."""
    return lambda: cast(Description, getattr(import_module(module), name))


def endpoint_in(package: str, method: str, path: str, name: str, client_api: ClientApi = OPENAI) -> Endpoint:
    """The endpoint whose handler is the function `name` in the package's module `handlers`. Its description has the
    same name in capitals, in the module `descriptions`."""
    return Endpoint(
        paths=with_v1(path),
        method=method,
        handler=handler_in(f"{package}.handlers", name),
        client_api=client_api,
        description=description_in(f"{package}.descriptions", name.upper()),
    )


class _DeferredHandler:
    def __init__(self, module: str, name: str, services: Services) -> None:
        self._module, self._name = module, name
        self._services = services
        self._handler: Handler | None = None

    async def __call__(self, context: RequestContext) -> Response:
        if self._handler is None:
            create: Callable[[Services], Handler] = getattr(import_module(self._module), self._name)
            self._handler = create(self._services)
        return await self._handler(context)

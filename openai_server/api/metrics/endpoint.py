"""The registry entry of `/metrics`, and its handler."""

import asyncio

from starlette.responses import Response

from openai_server.api import endpoint
from openai_server.api.endpoint import Description, Endpoint, Handler
from openai_server.api.services import Services
from openai_server.core.request_context import RequestContext
from openai_server.telemetry.metrics import CONTENT_TYPE


def metrics(services: Services) -> Handler:
    observer, loads, catalog = services.observer, services.load_reports, services.catalog

    async def handle(_: RequestContext) -> Response:
        await loads.refresh()
        observer.report()
        observer.metrics.unreported(loads.n_unreported)
        # In a thread: building the text of many series would delay streams.
        text = await asyncio.to_thread(observer.metrics.text, loads.reported, catalog.default_name or "")
        return Response(text, headers={"content-type": CONTENT_TYPE})

    return handle


METRICS = Endpoint(
    paths=("/metrics",),
    method="GET",
    handler=metrics,
    is_open=True,
    is_logged=False,
    is_administration=True,
    description=Description(
        tag="Server",
        summary="Metrics for Prometheus",
        answers=[str],
        example='openai_server_info{version="0.1.0"} 1.0\n',
        errors=endpoint.ALWAYS,
    ),
)

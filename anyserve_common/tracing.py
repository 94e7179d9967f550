"""Sets up tracing. OpenTelemetry is the optional extra `otel`, imported only if tracing is on.

OpenTelemetry's own variables set the endpoint, the sampling and the attributes of spans (OTEL_EXPORTER_OTLP_ENDPOINT,
OTEL_TRACES_SAMPLER, OTEL_RESOURCE_ATTRIBUTES, …).
"""

import importlib
import importlib.util
import os
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

AUTO, ON, OFF = "auto", "on", "off"
CHOICES = (AUTO, ON, OFF)
MISSING = "tracing needs the packages of the extra 'otel': pip install 'anyserve-openai[otel]'"


def wanted(choice: str) -> bool:
    """Returns whether to make spans. `auto`: if the environment sets an endpoint and the packages are installed.

    Raises ClickException for `on` without the packages.
    """
    if choice == OFF or os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    installed = importlib.util.find_spec("opentelemetry") is not None
    installed = installed and importlib.util.find_spec("opentelemetry.sdk") is not None
    if choice == ON:
        if not installed:
            raise click.ClickException(MISSING)
        return True
    return installed and any(
        os.environ.get(name) for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    )


def tracer_provider(service: str, version: str) -> "TracerProvider":
    """Returns a provider that exports to the environment's endpoint. OTEL_SERVICE_NAME overrides `service`.

    Raises ClickException if the exporter for the environment's protocol is not installed.
    """
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    attributes = {"service.name": os.environ.get("OTEL_SERVICE_NAME") or service, "service.version": version}
    provider = TracerProvider(resource=Resource.create(attributes))
    provider.add_span_processor(BatchSpanProcessor(_exporter()))
    return provider


def _exporter() -> Any:
    protocol = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL")
    kind = "grpc" if protocol == "grpc" else "http"
    try:
        module = importlib.import_module(f"opentelemetry.exporter.otlp.proto.{kind}.trace_exporter")
    except ImportError as error:
        package = f"opentelemetry-exporter-otlp-proto-{kind}"
        raise click.ClickException(f"tracing over {protocol or 'http/protobuf'} needs the package {package}") from error
    return module.OTLPSpanExporter()

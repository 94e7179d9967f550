"""Whether spans are made, and where they go; OpenTelemetry is the extra `otel`, imported only if tracing is on.

OpenTelemetry's own variables set where spans go and which of them (OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_TRACES_SAMPLER,
OTEL_RESOURCE_ATTRIBUTES, …).
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
    """Whether spans are made. `auto`: if the environment has an endpoint, and the packages are installed.

    Raises ClickException for `on` without the packages.
    """
    if choice == OFF or os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    there = importlib.util.find_spec("opentelemetry") is not None
    there = there and importlib.util.find_spec("opentelemetry.sdk") is not None
    if choice == ON:
        if not there:
            raise click.ClickException(MISSING)
        return True
    return there and any(
        os.environ.get(name) for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    )


def tracer_provider(service: str, version: str) -> "TracerProvider":
    """Exports to the endpoint that the environment has. `service` is the name unless OTEL_SERVICE_NAME is set.

    Raises ClickException if the exporter for the protocol of the environment is not installed.
    """
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    about = {"service.name": os.environ.get("OTEL_SERVICE_NAME") or service, "service.version": version}
    provider = TracerProvider(resource=Resource.create(about))
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

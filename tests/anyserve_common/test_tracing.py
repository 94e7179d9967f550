"""Tracing is enabled by option and environment; disabled, it imports nothing."""

import subprocess
import sys

import click
import pytest

from anyserve_common.tracing import tracer_provider, wanted

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
PROTOCOL = "OTEL_EXPORTER_OTLP_PROTOCOL"
VARIABLES = (
    *(ENDPOINT, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", PROTOCOL, "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"),
    *("OTEL_SDK_DISABLED", "OTEL_SERVICE_NAME"),
)


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_tracing_is_off_unless_the_environment_has_an_endpoint(environment: pytest.MonkeyPatch) -> None:
    assert (wanted("auto"), wanted("on"), wanted("off")) == (False, True, False)
    environment.setenv(ENDPOINT, "http://127.0.0.1:4318")
    assert (wanted("auto"), wanted("on"), wanted("off")) == (True, True, False)


def test_opentelemetrys_own_switch_turns_tracing_off(environment: pytest.MonkeyPatch) -> None:
    environment.setenv(ENDPOINT, "http://127.0.0.1:4318")
    environment.setenv("OTEL_SDK_DISABLED", "true")
    assert (wanted("auto"), wanted("on")) == (False, False)


def test_spans_name_the_program_or_the_service_in_the_environment(environment: pytest.MonkeyPatch) -> None:
    for expected in ("openai_server", "mine"):
        provider = tracer_provider("openai_server", "1.2")
        attributes = provider.resource.attributes
        assert (attributes["service.name"], attributes["service.version"]) == (expected, "1.2")
        provider.shutdown()
        environment.setenv("OTEL_SERVICE_NAME", "mine")


def test_the_error_names_the_exporter_that_is_not_installed(environment: pytest.MonkeyPatch) -> None:
    environment.setenv(PROTOCOL, "grpc")
    environment.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.grpc.trace_exporter", None)
    with pytest.raises(click.ClickException) as refused:
        tracer_provider("openai_server", "1.2")
    assert refused.value.message == "tracing over grpc needs the package opentelemetry-exporter-otlp-proto-grpc"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("openai_server.serving", ["opentelemetry"]),
        ("anyserve_worker.service.server", ["opentelemetry", "prometheus_client"]),
        # The parent process of several workers serves nothing itself.
        ("openai_server.__main__", ["opentelemetry", "prometheus_client", "grpc", "google.protobuf", "starlette"]),
    ],
)
def test_unneeded_packages_are_not_imported(module: str, absent: list[str]) -> None:
    code = f"import sys, {module}; print([name for name in {absent} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"

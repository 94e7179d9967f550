"""Whether there is tracing, and that what is off costs no import."""

import subprocess
import sys
from collections.abc import Callable

import pytest

from anyserve_worker.telemetry import tracing as of_worker
from openai_server.telemetry import tracing as of_sidecar

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
both = pytest.mark.parametrize("wanted", [of_sidecar.wanted, of_worker.wanted], ids=["sidecar", "worker"])


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in (ENDPOINT, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_SDK_DISABLED"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


@both
def test_it_is_off_unless_the_environment_says_where_to(
    environment: pytest.MonkeyPatch, wanted: Callable[[str], bool]
) -> None:
    assert (wanted("auto"), wanted("on"), wanted("off")) == (False, True, False)
    environment.setenv(ENDPOINT, "http://127.0.0.1:4318")
    assert (wanted("auto"), wanted("on"), wanted("off")) == (True, True, False)


@both
def test_opentelemetrys_own_switch_turns_it_off(environment: pytest.MonkeyPatch, wanted: Callable[[str], bool]) -> None:
    environment.setenv(ENDPOINT, "http://127.0.0.1:4318")
    environment.setenv("OTEL_SDK_DISABLED", "true")
    assert (wanted("auto"), wanted("on")) == (False, False)


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("openai_server.http.server", ["opentelemetry"]),
        ("anyserve_worker.service.server", ["opentelemetry", "prometheus_client"]),
        # The parent of several processes, which serves nothing itself.
        ("openai_server.__main__", ["opentelemetry", "prometheus_client", "grpc", "google.protobuf", "starlette"]),
    ],
)
def test_what_is_not_needed_is_not_imported(module: str, absent: list[str]) -> None:
    code = f"import sys, {module}; print([name for name in {absent} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"

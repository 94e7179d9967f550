"""The values of the options, and helpers to define options. `cli.py` and `access/options.py` list the options."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import click

from anyserve_common import addresses, logs, tracing
from anyserve_common.command_line import OptionMaker
from anyserve_common.pem_files import PEMFiles
from openai_server import ENVIRONMENT_PREFIX
from openai_server.core import current_request
from openai_server.core.model_files import TemplateFile, TokenizerFolder

METRICS_NAMES = ("vllm",)
"""Servers whose names the metrics may have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Times are in seconds. The help of each option documents its field."""

    anyserve_endpoint: tuple[str, ...] = ("localhost:8000",)
    prefix_affinity: bool = True
    backend_tls: bool = False
    backend_ca: str | None = None
    backend_cert: str | None = None
    backend_key: str | None = None
    backend_server_name: str = ""
    keepalive_time: float = 5
    host: tuple[str, ...] = addresses.LOOPBACK
    port: int = 8080
    workers: int = 1
    model_alias: Mapping[str, str] = field(default_factory=dict)
    served_model: tuple[str, ...] = ()
    dialect: Mapping[str, str] = field(default_factory=dict)
    mapping: tuple[Path, ...] = ()
    chat_template: Mapping[str, TemplateFile] = field(default_factory=dict)
    """By model; EVERY_MODEL is the name for all others."""
    tokenizer: Mapping[str, TokenizerFolder] = field(default_factory=dict)
    """By model."""
    forged_markup: str = "allow"
    request_timeout: float = 600
    lookup_timeout: float = 5
    ping_interval: float = 5
    template_timeout: float = 1
    template_max_chars: int = 4 << 20
    max_body_bytes: int = 16 << 20
    max_json_values: int = 1 << 20
    max_inflight_body_bytes: int = 128 << 20
    api_key: tuple[str, ...] = field(default=(), repr=False)
    api_key_file: Path | None = None
    item_key: tuple[str, ...] = field(default=(), repr=False)
    item_key_file: Path | None = None
    store: str | None = field(default=None, repr=False)
    blobs: Path | None = None
    store_retention: float = 30
    """Days."""
    store_max_objects: int = 1_000_000
    store_max_bytes: int = 16 << 30
    max_file_bytes: int = 512 << 20
    store_max_file_bytes: int = 64 << 30
    max_upload_bytes: int = 8 << 30
    max_upload_parts: int = 10_000
    max_background: int = 64
    max_batches: int = 100
    batch_concurrency: int = 32
    cors_origin: tuple[str, ...] = ()
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_client_ca: Path | None = None
    max_connections: int = 4096
    header_timeout: float = 10
    body_timeout: float = 60
    send_timeout: float = 60
    keep_alive_timeout: int = 75
    max_concurrency: int = 1024
    max_queue: int = 1024
    queue_timeout: float = 30
    max_priority_requests: int = 4
    max_flex_requests: int = 64
    requests_per_minute: int = 0
    tokens_per_minute: int = 0
    max_output_tokens: int = 0
    max_n: int = 128
    max_prompt_chars: int = 4 << 20
    max_schema_bytes: int = 256 << 10
    max_file_tokens: int = 0
    file_url: tuple[str, ...] = ()
    file_url_private: bool = False
    drain_delay: float = 0
    drain_timeout: int = 25
    admin_port: int | None = None
    metrics_names: tuple[str, ...] = ()
    docs: bool = True
    log_level: str = "info"
    log_format: str = logs.TEXT
    access_log: bool = True
    tracing: str = tracing.AUTO

    @property
    def tls_files(self) -> PEMFiles | None:
        """The files for HTTPS; None serves plain HTTP."""
        return PEMFiles(self.tls_cert, self.tls_key, self.tls_client_ca) if self.tls_cert else None

    def set_up_logging(self) -> None:
        logs.set_up(self.log_level, self.log_format, current_request.request_id)


# ---- Helpers to define options


option = OptionMaker({field.name: field.default for field in fields(Config)}, ENVIRONMENT_PREFIX)


class EmptyVariableOption(click.Option):
    """An option that reads an empty environment variable as an empty value. click would ignore the variable."""

    def value_from_envvar(self, ctx: click.Context) -> Any:
        value = super().value_from_envvar(ctx)
        if not value and isinstance(self.envvar, str) and self.envvar in os.environ:
            return ("",) if self.multiple else ""
        return value


def seconds(low: float = 0.001) -> dict[str, Any]:
    return {"type": click.FloatRange(min=low)}


def file() -> dict[str, Any]:
    return {"type": click.Path(exists=True, dir_okay=False, readable=True), "metavar": "FILE"}


def count(low: int, high: int | None = None) -> dict[str, Any]:
    return {"type": click.IntRange(low, high)}


def path(**settings: Any) -> dict[str, Any]:
    return {"type": click.Path(path_type=Path), "metavar": "FILE", **settings}

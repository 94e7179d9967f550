"""Settings that all kinds of upstream share, and how they are read. PURE apart from reading the file of a key."""

import json
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta, Struct

from anyserve_worker.pipelines.core.errors import SetupError
from anyserve_worker.pipelines.core.pipeline import Folder
from anyserve_worker.pipelines.toml_errors import explained

FILE = "pipeline.toml"
Seconds = Annotated[float, Meta(gt=0)]
Name = Annotated[str, Meta(min_length=1)]
_VARIABLE = re.compile(r"\$[A-Za-z_][A-Za-z0-9_]*")
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_OWN_HEADERS = frozenset(
    (
        *("authorization", "proxy-authorization", "cookie", "host", "content-length", "content-type", "connection"),
        *("transfer-encoding", "te", "trailer", "upgrade", "keep-alive", "proxy-connection", "accept-encoding"),
    )
)


class Timeouts(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Limits in seconds."""

    connect: Seconds = 10
    first_byte: Seconds = 120
    """Until the first byte of a streamed answer."""
    gap: Seconds = 120
    """Between two pieces of an answer."""
    total: Seconds = 600
    """For a whole request; also the limit for the first byte of an answer that isn't streamed."""


class UpstreamSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    base_url: Name = ""
    """Literal, or `$NAME` of an environment variable."""
    api_key: str = ""
    """`$NAME` of an environment variable. Without a value, requests have no key."""
    api_key_file: str = ""
    """Path of a file with the key, relative to the folder; it is read again when it changes."""
    models: dict[Name, Name] | list[Name] | Name | None = None
    headers: dict[str, str] = {}
    """Additional headers of requests: literal, or `$NAME`."""
    timeouts: Timeouts = Timeouts()
    retries: Annotated[int, Meta(ge=0, le=5)] = 2
    """Attempts after the first one if the upstream can't be reached, or names a time to wait."""
    max_retry_wait: Annotated[float, Meta(ge=0)] = 5
    """Maximum seconds to wait before another attempt; an upstream that names more isn't tried again."""
    check_interval: Annotated[float, Meta(ge=1)] = 30
    """Seconds between checks of the upstream."""
    user_agent: str = ""
    """Empty: `anyserve/` and the version."""


S = TypeVar("S")
_log = logging.getLogger(__name__)


def settings_error(folder: Folder, kind: str, problem: str) -> SetupError:
    return SetupError(f"{folder.path / FILE}: [{kind}]: {problem}")


def read_settings(folder: Folder, kind: str, type: type[S]) -> S:
    """Raises SetupError, which names the file and the key."""
    try:
        return msgspec.convert(dict(folder.settings), type)
    except msgspec.ValidationError as error:
        raise settings_error(folder, kind, explained(error, type)) from None


def variable(value: str) -> str:
    """Name of the environment variable in `$NAME`; empty: the value is literal."""
    return value[1:] if _VARIABLE.fullmatch(value) else ""


def read_base_url(value: str, environment: Mapping[str, str]) -> str:
    """The base URL without a final slash. Raises ValueError, whose text has no secret."""
    if name := variable(value):
        value = environment.get(name, "").strip()
        if not value:
            raise ValueError(f"base_url: the environment variable {name} is not set")
    try:
        url = urlsplit(value)
        usable = url.scheme in ("http", "https") and bool(url.hostname) and (url.port is None or url.port > 0)
    except ValueError:
        usable = False
    if not usable or not value.isprintable() or " " in value:
        raise ValueError("base_url must be an http or https URL")
    if url.username is not None or url.password is not None:
        raise ValueError("base_url must not contain credentials; use api_key or api_key_file")
    if url.query or url.fragment:
        raise ValueError("base_url must not have a query or a fragment")
    return value.rstrip("/")


def read_headers(headers: Mapping[str, str], environment: Mapping[str, str]) -> dict[str, str]:
    """The additional headers; those whose variable isn't set are left out. Raises ValueError."""
    values = {}
    for name, value in headers.items():
        if not _HEADER_NAME.fullmatch(name) or name.lower() in _OWN_HEADERS:
            raise ValueError(f"headers: {name!r} can't be set here")
        if source := variable(value):
            value = environment.get(source, "").strip()
        if not is_header_value(value):
            raise ValueError(f"headers.{name} must be printable ASCII")
        if value:
            values[name] = value
    return values


def is_header_value(value: str) -> bool:
    return value.isascii() and (value.isprintable() or not value)


def secret_values(headers: Mapping[str, str], values: Mapping[str, str]) -> tuple[str, ...]:
    """Values of headers that come from the environment, so that they are removed from texts."""
    return tuple(values[name] for name, value in headers.items() if variable(value) and name in values)


class ApiKey:
    """The key of an upstream, empty if there is none. A file is read again when it has changed."""

    def __init__(self, value: str = "", path: Path | None = None) -> None:
        self._value = value
        self._path = path
        self._version: tuple[int, ...] = ()

    def value(self) -> str:
        """Keeps the last key while the file can't be read. Raises ValueError if the file holds no key."""
        if self._path is None:
            return self._value
        try:
            status = self._path.stat()
            version = (status.st_mtime_ns, status.st_size, status.st_ino)
            if version != self._version:
                self._value = self._path.read_text(encoding="utf-8").strip()
                self._version = version
        except (OSError, UnicodeDecodeError):
            if not self._version:
                raise ValueError("api_key_file can't be read") from None
        if not is_header_value(self._value):
            raise ValueError("api_key_file must contain a single line of printable ASCII")
        return self._value


def read_api_key(settings: UpstreamSettings, folder: Path, environment: Mapping[str, str]) -> ApiKey:
    """Raises ValueError, whose text has no secret."""
    if settings.api_key and settings.api_key_file:
        raise ValueError("api_key and api_key_file exclude each other")
    if settings.api_key_file:
        key = ApiKey(path=folder / settings.api_key_file)
        key.value()
        return key
    name = variable(settings.api_key)
    if settings.api_key and not name:
        raise ValueError('api_key must be the name of an environment variable, such as "$UPSTREAM_API_KEY"')
    value = environment.get(name, "").strip() if name else ""
    if not is_header_value(value):
        raise ValueError(f"api_key: the environment variable {name} must be printable ASCII")
    return ApiKey(value)


def warn_without_key(settings: UpstreamSettings, key: ApiKey, folder: str) -> None:
    """Logs that the settings name a key that has no value."""
    if (settings.api_key or settings.api_key_file) and not key.value():
        source = settings.api_key or settings.api_key_file
        _log.warning("pipeline %s: %s has no value, so requests have no key", folder, source)


def as_json(value: Any) -> bytes:
    """The body of a request. Half of a surrogate pair, which JSON can escape, stays escaped."""
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:
        return json.dumps(value, separators=(",", ":")).encode()

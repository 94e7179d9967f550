"""The installed uvicorn, httptools and Starlette have the undocumented parts that the sidecar uses.

`Connection` is a subclass of uvicorn's own, whose methods it calls or replaces. A new version of uvicorn may rename any
of them, so pyproject.toml allows only versions that were checked. The failure message names a missing part.
"""

import asyncio
import importlib.metadata
import inspect
import re
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from httptools import HttpRequestParser
from packaging.requirements import Requirement
from starlette.responses import Response
from starlette.routing import Route
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from openai_server.http.connection import Connection
from openai_server.http.server import Server

BOUND = ("uvicorn", "httptools", "starlette")
METHODS: dict[type, dict[str, tuple[str, ...]]] = {
    HttpToolsProtocol: {
        "__init__": ("config", "server_state", "app_state"),
        "connection_made": ("transport",),
        "connection_lost": ("exc",),
        "data_received": ("data",),
        "pause_writing": (),
        "resume_writing": (),
        "on_message_begin": (),
        "on_url": ("url",),
        "on_header": ("name", "value"),
        "on_headers_complete": (),
        "on_body": ("body",),
        "on_message_complete": (),
        "on_response_complete": (),
        "timeout_keep_alive_handler": (),
        "_start_asgi_task": ("cycle", "app"),
        "_unset_keepalive_if_required": (),
        "shutdown": (),
    },
    RequestResponseCycle: {
        "__init__": (
            *("scope", "transport", "flow", "logger", "access_logger", "access_log", "default_headers"),
            *("message_event", "expect_100_continue", "keep_alive", "on_response"),
        ),
        "run_asgi": ("app",),
        "send": ("message",),
        "receive": (),
    },
    FlowControl: {"pause_reading": (), "resume_reading": ()},
    uvicorn.Server: {
        "__init__": ("config",),
        "startup": ("sockets",),
        "serve": ("sockets",),
        "shutdown": ("sockets",),
        "on_tick": ("counter",),
        "handle_exit": ("sig", "frame"),
        "capture_signals": (),
    },
    uvicorn.Config: {"load": ()},
    ProxyHeadersMiddleware: {"__init__": ("app", "trusted_hosts")},
}
"""Methods that are called or replaced, with their parameters; any further parameters must have defaults."""


def installed() -> str:
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in BOUND)


def missing(part: str) -> str:
    return (
        f"{part} is not in the installed versions ({installed()}), but openai_server uses it: adapt openai_server, or "
        "bound the version in pyproject.toml"
    )


@pytest.mark.parametrize(
    ("owner", "name", "parameters"),
    [(owner, name, parameters) for owner, methods in METHODS.items() for name, parameters in methods.items()],
    ids=lambda value: value.__name__ if isinstance(value, type) else value if isinstance(value, str) else "",
)
def test_the_installed_version_has_the_method(owner: type, name: str, parameters: tuple[str, ...]) -> None:
    signature = f"{owner.__module__}.{owner.__name__}.{name}({', '.join(parameters)})"
    actual = list(inspect.signature(vars(owner)[name]).parameters.values())[1:] if name in vars(owner) else None
    assert actual is not None, missing(signature)
    required = [parameter.name for parameter in actual if parameter.default is parameter.empty]
    assert set(parameters) <= {parameter.name for parameter in actual}, missing(signature)
    assert set(required) <= set(parameters), missing(signature)


@pytest.mark.parametrize("subclass", [Connection, Server], ids=lambda subclass: subclass.__name__)
def test_the_list_has_every_method_that_is_called_or_replaced(subclass: type) -> None:
    base = next(base for base in subclass.__mro__ if base in METHODS)
    classes = subclass.__mro__[: subclass.__mro__.index(base)]
    called = {name for class_ in classes for name in re.findall(r"super\(\)\.(\w+)\(", inspect.getsource(class_))}
    replaced = {name for class_ in classes for name in vars(class_)} & set(vars(base))
    own_names = {name for class_ in classes for name in vars(class_)} - set(vars(base))
    implicit_names = {"__module__", "__doc__", "__dict__", "__weakref__", "__annotations__", "__static_attributes__"}
    assert (called | replaced) - own_names - implicit_names - {"__firstlineno__"} <= set(METHODS[base])


def missing_names(owner: object, names: Iterable[str]) -> list[str]:
    return [name for name in names if not hasattr(owner, name)]


class Transport(asyncio.Transport):
    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


async def test_the_installed_version_has_the_attributes_of_connections_and_requests() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None: ...

    config = uvicorn.Config(app, http=HttpToolsProtocol, ws="none", log_config=None)
    config.load()
    state = ServerState()
    client = HttpToolsProtocol(config=config, server_state=state, app_state={})
    client.connection_made(Transport())
    client.on_message_begin()
    of_connection = (
        *("access_log", "access_logger", "app", "client", "connections", "cycle", "flow", "headers", "logger", "loop"),
        *("parser", "pipeline", "root_path", "scope", "server_state", "tasks", "transport", "url"),
    )
    assert not missing_names(client, of_connection), missing(
        f"{missing_names(client, of_connection)} of HttpToolsProtocol"
    )
    assert client.headers is client.scope["headers"]
    assert client.scope["http_version"] == "1.1"
    cycle = RequestResponseCycle(
        scope=client.scope,
        transport=client.transport,
        flow=client.flow,
        logger=client.logger,
        access_logger=client.access_logger,
        access_log=client.access_log,
        default_headers=state.default_headers,
        message_event=asyncio.Event(),
        expect_100_continue=True,
        keep_alive=True,
        on_response=client.on_response_complete,
    )
    of_request = (
        *("chunked_encoding", "expected_content_length", "keep_alive", "message_event", "more_body", "scope"),
        *("response_complete", "response_started", "waiting_for_100_continue"),
    )
    assert not missing_names(cycle, of_request), missing(f"{missing_names(cycle, of_request)} of RequestResponseCycle")
    for owner, names in (
        (client.flow, ("read_paused",)),
        (state, ("default_headers", "total_requests")),
        (config, ("backlog", "forwarded_allow_ips", "http_protocol_class", "loaded_app", "ssl")),
        (uvicorn.Server(config), ("config", "force_exit", "server_state", "should_exit")),
    ):
        assert not missing_names(owner, names), missing(f"{missing_names(owner, names)} of {type(owner).__name__}")


def test_the_parser_has_the_required_leniencies() -> None:
    names = (
        *("feed_data", "get_http_version", "get_method", "should_keep_alive", "should_upgrade"),
        "set_dangerous_leniencies",
    )
    parser = HttpRequestParser(object())
    assert not missing_names(parser, names), missing(f"{missing_names(parser, names)} of httptools.HttpRequestParser")
    try:
        parser.set_dangerous_leniencies(lenient_data_after_close=True, lenient_version=True)
    except TypeError as error:
        pytest.fail(missing(f"a leniency of httptools.HttpRequestParser ({error})"))


def test_starlette_has_the_attributes_of_routes_and_responses() -> None:
    async def answer(_: Any) -> Response:
        return Response()

    route = Route("/{name}", answer, name="name")
    assert not missing_names(route, ("methods", "name", "param_convertors", "path", "path_regex")), missing(
        "Route's tables"
    )
    assert route.path_regex.match("/x"), missing("a route's own regular expression")
    assert route.methods == {"GET", "HEAD"}, missing("a GET route that answers HEAD")
    response = Response()
    assert not missing_names(response, ("background", "body", "raw_headers", "status_code")), missing(
        "Response's fields"
    )


@pytest.mark.parametrize("name", BOUND)
def test_only_checked_versions_are_allowed(name: str) -> None:
    pyproject = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())
    [requirement] = [
        requirement for line in pyproject["project"]["dependencies"] if (requirement := Requirement(line)).name == name
    ]
    assert any(specifier.operator == "<" for specifier in requirement.specifier), f"{name} has no bound above"
    version = importlib.metadata.version(name)
    assert requirement.specifier.contains(version), f"{name} {version} is installed, allowed is {requirement.specifier}"

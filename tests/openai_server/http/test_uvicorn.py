"""What the sidecar uses of uvicorn, httptools and Starlette without their documentation is in the installed versions.

`Connection` is a subclass of uvicorn's own, whose methods it calls or replaces. A new version of uvicorn may rename any
of them, so pyproject.toml allows only versions that were looked at. Where one is missing, the message says so.
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
"""Methods that are called or replaced, with the names of their parameters; more parameters must have defaults."""


def installed() -> str:
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in BOUND)


def missing(what: str) -> str:
    return (
        f"{what} is not in the installed versions ({installed()}), but openai_server uses it: adapt openai_server, or "
        "bound the version in pyproject.toml"
    )


@pytest.mark.parametrize(
    ("owner", "name", "parameters"),
    [(owner, name, parameters) for owner, methods in METHODS.items() for name, parameters in methods.items()],
    ids=lambda value: value.__name__ if isinstance(value, type) else value if isinstance(value, str) else "",
)
def test_a_method_is_there(owner: type, name: str, parameters: tuple[str, ...]) -> None:
    what = f"{owner.__module__}.{owner.__name__}.{name}({', '.join(parameters)})"
    found = list(inspect.signature(vars(owner)[name]).parameters.values())[1:] if name in vars(owner) else None
    assert found is not None, missing(what)
    required = [one.name for one in found if one.default is one.empty]
    assert set(parameters) <= {one.name for one in found}, missing(what)
    assert set(required) <= set(parameters), missing(what)


@pytest.mark.parametrize("ours", [Connection, Server], ids=lambda ours: ours.__name__)
def test_the_list_names_every_method_that_ours_calls_or_replaces(ours: type) -> None:
    theirs = next(base for base in ours.__mro__ if base in METHODS)
    classes = ours.__mro__[: ours.__mro__.index(theirs)]
    called = {name for one in classes for name in re.findall(r"super\(\)\.(\w+)\(", inspect.getsource(one))}
    replaced = {name for one in classes for name in vars(one)} & set(vars(theirs))
    of_ours = {name for one in classes for name in vars(one)} - set(vars(theirs))
    own = {"__module__", "__doc__", "__dict__", "__weakref__", "__annotations__", "__static_attributes__"}
    assert (called | replaced) - of_ours - own - {"__firstlineno__"} <= set(METHODS[theirs])


def lacking(thing: object, names: Iterable[str]) -> list[str]:
    return [name for name in names if not hasattr(thing, name)]


class Transport(asyncio.Transport):
    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


async def test_attributes_of_a_connection_and_of_a_request_are_there() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None: ...

    config = uvicorn.Config(app, http=HttpToolsProtocol, ws="none", log_config=None)
    config.load()
    state = ServerState()
    made = HttpToolsProtocol(config=config, server_state=state, app_state={})
    made.connection_made(Transport())
    made.on_message_begin()
    of_connection = (
        *("access_log", "access_logger", "app", "client", "connections", "cycle", "flow", "headers", "logger", "loop"),
        *("parser", "pipeline", "root_path", "scope", "server_state", "tasks", "transport", "url"),
    )
    assert not lacking(made, of_connection), missing(f"{lacking(made, of_connection)} of HttpToolsProtocol")
    assert made.headers is made.scope["headers"]
    assert made.scope["http_version"] == "1.1"
    cycle = RequestResponseCycle(
        scope=made.scope,
        transport=made.transport,
        flow=made.flow,
        logger=made.logger,
        access_logger=made.access_logger,
        access_log=made.access_log,
        default_headers=state.default_headers,
        message_event=asyncio.Event(),
        expect_100_continue=True,
        keep_alive=True,
        on_response=made.on_response_complete,
    )
    of_request = (
        *("chunked_encoding", "expected_content_length", "keep_alive", "message_event", "more_body", "scope"),
        *("response_complete", "response_started", "waiting_for_100_continue"),
    )
    assert not lacking(cycle, of_request), missing(f"{lacking(cycle, of_request)} of RequestResponseCycle")
    for thing, names in (
        (made.flow, ("read_paused",)),
        (state, ("default_headers", "total_requests")),
        (config, ("backlog", "forwarded_allow_ips", "http_protocol_class", "loaded_app", "ssl")),
        (uvicorn.Server(config), ("config", "force_exit", "server_state", "should_exit")),
    ):
        assert not lacking(thing, names), missing(f"{lacking(thing, names)} of {type(thing).__name__}")


def test_the_parser_is_as_lenient_as_it_has_to_be() -> None:
    names = (
        *("feed_data", "get_http_version", "get_method", "should_keep_alive", "should_upgrade"),
        "set_dangerous_leniencies",
    )
    parser = HttpRequestParser(object())
    assert not lacking(parser, names), missing(f"{lacking(parser, names)} of httptools.HttpRequestParser")
    try:
        parser.set_dangerous_leniencies(lenient_data_after_close=True, lenient_version=True)
    except TypeError as error:
        pytest.fail(missing(f"a leniency of httptools.HttpRequestParser ({error})"))


def test_what_is_used_of_starlettes_routes_and_responses_is_there() -> None:
    async def answer(_: Any) -> Response:
        return Response()

    route = Route("/{name}", answer, name="name")
    assert not lacking(route, ("methods", "name", "param_convertors", "path", "path_regex")), missing("Route's tables")
    assert route.path_regex.match("/x"), missing("a route's own regular expression")
    assert route.methods == {"GET", "HEAD"}, missing("a GET route that answers HEAD")
    response = Response()
    assert not lacking(response, ("background", "body", "raw_headers", "status_code")), missing("Response's fields")


@pytest.mark.parametrize("name", BOUND)
def test_no_version_is_allowed_that_nobody_has_looked_at(name: str) -> None:
    pyproject = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())
    [requirement] = [one for line in pyproject["project"]["dependencies"] if (one := Requirement(line)).name == name]
    assert any(specifier.operator == "<" for specifier in requirement.specifier), f"{name} has no bound above"
    version = importlib.metadata.version(name)
    assert requirement.specifier.contains(version), f"{name} {version} is installed, allowed is {requirement.specifier}"

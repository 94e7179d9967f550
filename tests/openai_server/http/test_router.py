import pytest

from openai_server.http.router import MAX_CACHED, Match, Router

ROUTES = [
    ("GET", "/models", "models"),
    ("GET", "/models/{model}", "model"),
    ("POST", "/chat", "fixed"),
    ("POST", "/{model}/chat", "short"),
    ("POST", "/{model}/chat/completions", "chat"),
    ("POST", "/{model}/completions", "completions"),
    ("POST", "/models/{model}/completions", "below"),
    ("GET", "/files/{file}", "get file"),
    ("DELETE", "/files/{file}", "delete file"),
]


@pytest.mark.parametrize("routes", [ROUTES, ROUTES[::-1]], ids=["", "reversed"])
@pytest.mark.parametrize(
    ("method", "path", "route", "parameters"),
    [
        ("GET", "/models", "models", {}),
        ("HEAD", "/models", "models", {}),
        ("GET", "/models/a/b", "model", {"model": "a/b"}),
        ("HEAD", "/models/a", "model", {"model": "a"}),
        ("POST", "/chat", "fixed", {}),
        ("POST", "/chat/chat", "short", {"model": "chat"}),
        ("POST", "/a/b/chat/completions", "chat", {"model": "a/b"}),
        ("POST", "/a/chat/x/completions", "completions", {"model": "a/chat/x"}),
        ("POST", "/models/a/completions", "below", {"model": "a"}),
        ("POST", "/models/a b\n/completions", "below", {"model": "a b\n"}),
        ("DELETE", "/files/x", "delete file", {"file": "x"}),
    ],
)
def test_the_most_specific_route_is_chosen_in_any_order(
    routes: list[tuple[str, str, str]], method: str, path: str, route: str, parameters: dict[str, str]
) -> None:
    router = Router(routes)
    assert router.find(method, path) == router.find(method, path) == Match(route, parameters)


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", "/models", ("GET", "HEAD")),
        ("OPTIONS", "/chat", ("POST",)),
        ("PUT", "/files/x", ("DELETE", "GET", "HEAD")),
        ("PUT", "/models/a/completions", ("GET", "HEAD", "POST")),
    ],
)
def test_another_method_is_rejected_with_the_allowed_ones(method: str, path: str, allowed: tuple[str, ...]) -> None:
    match = Router(ROUTES).find(method, path)
    assert match.route is not None
    assert match.allowed == allowed


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/models/",
        "/models//",
        "/models\n",
        "/chat/",
        "//chat",
        "/v1/chat",
        "/a/v1/chat",
        "/engines/chat",
        "/files/a/b",
    ],
)
def test_a_path_that_differs_from_its_route_is_not_found(path: str) -> None:
    for method in ("GET", "POST"):
        assert Router(ROUTES).find(method, path) == Match(None)


def test_long_paths_are_not_cached() -> None:
    router = Router(ROUTES)
    for n in range(3 * MAX_CACHED):
        assert router.find("GET", f"/models/{n}").parameters == {"model": f"{n}"}
    assert router._kept.cache_info().currsize == MAX_CACHED
    router._kept.cache_clear()
    router.find("GET", "/models/" + "x" * MAX_CACHED)
    assert router._kept.cache_info().currsize == 0

"""The model that a request gets, and how often backends are queried for it, with fake backends and a fake clock."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any, cast

import pytest

from openai_server.backends import catalog as catalog_module
from openai_server.backends import inventory as inventory_module
from openai_server.backends.catalog import Catalog
from openai_server.backends.dialects.description import Description, IndexEntry
from openai_server.backends.directory import DEFAULT_NAMES, Model
from openai_server.backends.inventory import LOOKUP_INTERVAL
from openai_server.core.errors import BackendError, ModelNotFound, Unavailable, UnsupportedParameter
from tests.openai_server.backends.fakes import FakeBackend, away, pool_of


class Site:
    """A catalog of fake backends. `now` is its clock, in seconds."""

    def __init__(self, *backends: FakeBackend, served: tuple[str, ...] = (), **aliases: str) -> None:
        self.now = 0.0
        self.backends = backends
        self.pool = pool_of(*backends)
        self.catalog = Catalog(self.pool, served=served, aliases=aliases, clock=lambda: self.now)

    async def learn(self, *models: str) -> "Site":
        """Looks up the lists and the given models."""
        await self.catalog.all()
        for model in models:
            await self.catalog.resolve(model)
        for backend in self.backends:
            backend.lookups.clear()
        return self

    @property
    def lists(self) -> list[int]:
        """Number of lookups of each backend's list."""
        return [backend.lookups.count("") for backend in self.backends]

    def member(self, k: int = 0) -> Any:
        return self.pool.members[k]

    def failed(self, *members: int, model: str = "m") -> frozenset[tuple[Any, str]]:
        return frozenset((self.member(k), model) for k in members)


def error(status: str, *tried: tuple[Any, str]) -> BackendError:
    error = BackendError(status, "no")
    error.tried = frozenset(tried)
    return error


# ---- Known models


async def test_a_known_model_is_resolved_without_waiting() -> None:
    site = await Site(FakeBackend()).learn()
    site.backends[0].may_answer.clear()
    waits = site.catalog.resolve("m")
    with pytest.raises(StopIteration) as finished:  # the coroutine ends without waiting
        waits.send(None)
    assert cast(Model, finished.value.value).name == "m"
    assert not site.backends[0].lookups


async def test_members_that_describe_a_model_alike_share_it() -> None:
    a, b, c = (FakeBackend(f"{name}:1") for name in "abc")
    b.model_parameters = {"m": {"context_length": "9"}}
    site = await Site(a, b, c).learn()
    first, other = site.catalog._directory.known("m")
    assert [member.address.target for member in first.members] == ["a:1", "c:1"]
    assert [member.address.target for member in other.members] == ["b:1"]
    assert (site.catalog.context_length("m"), other.context_length) == (None, 9)


async def test_an_alias_is_resolved_to_its_model() -> None:
    site = await Site(FakeBackend(), gpt="m").learn()
    assert (await site.catalog.resolve("gpt")).name == "m"


async def test_a_backend_without_a_list_has_the_configured_models() -> None:
    class Listless(FakeBackend):
        async def index(self) -> list[IndexEntry]:
            raise BackendError("UNIMPLEMENTED", "no")

    assert (await Site(Listless(), served=("x",)).catalog.resolve("x")).name == "x"
    with pytest.raises(Unavailable, match="--served-model"):
        await Site(Listless()).catalog.resolve("x")


# ---- The default model


@pytest.mark.parametrize("requested", [None, *DEFAULT_NAMES])
async def test_the_default_model_is_the_first_of_the_first_backend(requested: str | None) -> None:
    a, b = FakeBackend("a:1"), FakeBackend("b:1")
    a.names, b.names = ["x", "y"], ["z"]
    site = await Site(a, b).learn()
    assert (await site.catalog.resolve(requested)).name == "x"


async def test_the_default_model_waits_for_the_first_backend() -> None:
    a, b = FakeBackend("a:1"), FakeBackend("b:1")
    a.names, b.names = ["x"], ["z"]
    a.may_answer.clear()
    site = Site(a, b)
    waits = asyncio.create_task(site.catalog.resolve(None))
    await site.catalog.resolve("z")
    assert not waits.done()
    a.may_answer.set()
    assert (await waits).name == "x"


async def test_the_wait_of_the_default_model_for_a_silent_backend_is_limited(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(catalog_module, "LIST_WAIT", 0.001)
    a, b = FakeBackend("a:1"), FakeBackend("b:1")
    b.names = ["z"]
    a.may_answer.clear()
    assert (await Site(a, b).catalog.resolve(None)).name == "z"


# ---- Unknown names


async def test_concurrent_unknown_names_share_one_lookup_of_each_list() -> None:
    site = await Site(FakeBackend("a:1"), FakeBackend("b:1")).learn()
    errors = await asyncio.gather(*(site.catalog.resolve(f"x{k}") for k in range(9)), return_exceptions=True)
    assert [type(error) for error in errors] == [ModelNotFound] * 9
    assert site.lists == [1, 1]


async def test_unknown_names_cause_one_lookup_an_interval() -> None:
    site = await Site(FakeBackend()).learn()
    for now, n_lists in ((0.0, 1), (LOOKUP_INTERVAL / 2, 1), (LOOKUP_INTERVAL, 2)):
        site.now = now
        with pytest.raises(ModelNotFound):
            await site.catalog.resolve("x")
        assert site.lists == [n_lists]


async def test_a_name_is_found_once_it_is_listed() -> None:
    site = await Site(FakeBackend()).learn()
    site.backends[0].names = ["m", "x"]
    assert (await site.catalog.resolve("x")).name == "x"


async def test_the_error_of_a_lookup_is_returned_for_the_whole_interval() -> None:
    site = await Site(FakeBackend()).learn()
    site.backends[0].lookup_error = away()
    for _ in range(2):
        with pytest.raises(BackendError, match="away"):
            await site.catalog.resolve("x")
    assert site.lists == [1]


async def test_an_unknown_name_waits_only_until_one_backend_lists_it() -> None:
    site = await Site(FakeBackend("a:1"), FakeBackend("b:1")).learn()
    site.backends[0].may_answer.clear()
    site.backends[1].names = ["m", "x"]
    assert (await site.catalog.resolve("x")).name == "x"


class Broken(FakeBackend):
    """A backend that fails to describe the model `x`."""

    async def describe(self, model: str, version: str = "") -> tuple[Description, dict[str, str]]:
        if model == "x":
            raise BackendError("INTERNAL", "broken")
        return await super().describe(model, version)


async def test_a_model_that_one_backend_cannot_describe_is_awaited_from_another() -> None:
    a, b = Broken("a:1"), FakeBackend("b:1")
    a.names = b.names = ["x"]
    b.may_answer.clear()
    waits = asyncio.create_task(Site(a, b).catalog.resolve("x"))
    done, _ = await asyncio.wait([waits], timeout=0.001)
    assert not done
    b.may_answer.set()
    assert [member.address.target for member in (await waits).members] == ["b:1"]


async def test_a_model_that_cannot_be_described_does_not_fail_the_list() -> None:
    backend = Broken()
    backend.names = ["m", "x"]
    site = Site(backend)
    assert [model.name for model in await site.catalog.all()] == ["m"]
    with pytest.raises(BackendError, match="broken"):
        await site.catalog.resolve("x")


# ---- The list


async def test_the_list_is_looked_up_for_each_request_and_is_the_union() -> None:
    a, b = FakeBackend("a:1"), FakeBackend("b:1")
    a.names, b.names = ["x", "y"], ["y", "z"]
    site = await Site(a, b).learn()
    assert [model.name for model in await site.catalog.all()] == ["x", "y", "z"]
    a.names = ["x"]
    assert [model.name for model in await site.catalog.all()] == ["x", "y", "z"]
    assert [a.lookups, b.lookups] == [["", ""], ["", ""]]  # known models are not looked up


async def test_the_wait_of_the_list_for_a_silent_backend_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog_module, "LIST_WAIT", 0.001)
    a, b = FakeBackend("a:1"), FakeBackend("b:1")
    a.may_answer.clear()
    b.names = ["z"]
    assert [model.name for model in await Site(a, b).catalog.all()] == ["z"]


async def test_one_failing_backend_does_not_fail_the_list() -> None:
    a, b = FakeBackend("a:1"), FakeBackend("b:1")
    a.lookup_error = away()
    assert [model.name for model in await Site(a, b).catalog.all()] == ["m"]
    b.lookup_error = away()
    with pytest.raises(BackendError, match="away"):
        await Site(a, b).catalog.all()


async def test_a_disconnected_backend_is_awaited_once() -> None:
    a, b = FakeBackend("a:1"), FakeBackend("b:1")
    site = await Site(a, b).learn()
    a.connected = False
    await site.catalog.all()
    assert site.lists == [0, 1]


async def test_backends_without_models_are_unavailable() -> None:
    backend = FakeBackend()
    backend.names = []
    for look in (Catalog.all, lambda catalog: catalog.resolve(None)):
        with pytest.raises(Unavailable, match="no model ready"):
            await look(Site(backend).catalog)


# ---- Events of backends


Wait = Callable[[], Coroutine[Any, Any, None]]


@asynccontextmanager
async def renewed(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Callable[[], Coroutine[Any, Any, None]]]:
    """Yields a function that waits for running renewals."""
    monkeypatch.setattr(inventory_module, "LOOKUP_INTERVAL", 0)

    async def wait() -> None:
        for inventory in site.catalog._directory.inventories:
            if inventory._renewal is not None:
                await inventory._renewal

    yield wait


@pytest.mark.parametrize(("status", "n_lists"), [("UNAVAILABLE", 1), ("NOT_FOUND", 1), ("INTERNAL", 0)])
async def test_a_failed_call_causes_new_lookups(status: str, n_lists: int, monkeypatch: pytest.MonkeyPatch) -> None:
    site = await Site(FakeBackend()).learn()
    site.backends[0].model_parameters = {"m": {"context_length": "9"}}
    async with renewed(site, monkeypatch) as wait:
        site.catalog.failed(site.member(), "m", error(status))
        assert (await site.catalog.resolve("m")).context_length is None  # known values are used meanwhile
        await wait()
        assert site.lists == [n_lists]
        assert (await site.catalog.resolve("m")).context_length == (9 if n_lists else None)


async def test_a_backend_that_lacks_a_model_gets_no_more_requests_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    site = await Site(FakeBackend("a:1"), FakeBackend("b:1")).learn()
    async with renewed(site, monkeypatch) as wait:
        site.catalog.failed(site.member(), "m", error("NOT_FOUND"))
        [model] = site.catalog._directory.known("m")
        assert model.members == (site.member(1),)
        await wait()


async def test_the_models_of_a_lost_connection_are_looked_up_again() -> None:
    site = await Site(FakeBackend()).learn()
    site.catalog.lost(site.member())
    assert not site.catalog._directory.known("m")
    site.backends[0].names = ["other"]
    assert (await site.catalog.resolve("other")).name == "other"


async def test_a_model_of_a_lost_backend_is_unavailable_and_not_unknown() -> None:
    a, b = FakeBackend("a:1"), FakeBackend("b:1")
    b.names = ["other"]
    site = await Site(a, b).learn("m", "other")
    site.catalog.lost(site.member())
    a.lookup_error = away()
    with pytest.raises(Unavailable, match="'m'"):
        await site.catalog.resolve("m")
    with pytest.raises(ModelNotFound):
        await site.catalog.resolve("x")


async def test_the_list_of_a_backend_is_looked_up_once_it_is_usable(monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site(FakeBackend())
    async with renewed(site, monkeypatch) as wait:
        site.catalog.ready(site.member())
        await wait()
        assert site.lists == [1]
        site.catalog.ready(site.member())  # its list is known
        await wait()
        assert site.lists == [1]


async def test_the_models_of_a_removed_address_are_removed() -> None:
    site = await Site(FakeBackend("a:1"), FakeBackend("b:1")).learn()
    removed = site.member()
    site.pool.members = site.pool.members[1:]
    site.catalog.left(removed)
    [model] = site.catalog._directory.known("m")
    assert model.members == site.pool.members
    site.catalog.failed(removed, "m", error("UNAVAILABLE"))  # by a request that was still running
    site.catalog.lost(removed)


@pytest.mark.parametrize(("connected", "n_lists"), [([True, True], [1, 1]), ([True, False], [1, 0])])
async def test_the_lists_of_several_backends_are_looked_up_regularly(
    connected: list[bool], n_lists: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    site = await Site(FakeBackend("a:1"), FakeBackend("b:1")).learn()
    for backend, is_connected in zip(site.backends, connected, strict=True):
        backend.connected = is_connected
        backend.may_answer.clear()
    arranged = asyncio.Event()
    monkeypatch.setattr(catalog_module, "REFRESH_INTERVAL", 0)
    monkeypatch.setattr(site.catalog._directory, "arrange", arranged.set)
    watch = asyncio.create_task(site.catalog.watch())
    await arranged.wait()
    await asyncio.sleep(0)
    watch.cancel()
    with suppress(asyncio.CancelledError):
        await watch
    assert site.lists == n_lists


# ---- Dialects of a request


async def targets(model: Model) -> list[str]:
    return [member.address.target for member in model.members]


async def two_forms() -> Site:
    """Two backends that report one model differently."""
    a, b = FakeBackend("a:1"), FakeBackend("b:1")
    b.model_parameters = {"m": {"context_length": "9"}}
    site = await Site(a, b).learn()
    assert len(site.catalog._directory.known("m")) == 2
    return site


async def test_a_request_has_the_form_of_the_backend_with_the_least_load() -> None:
    site = await two_forms()
    for busy, idle in ((0, 1), (1, 0)):
        site.backends[busy].n_running, site.backends[idle].n_running = 1, 0
        assert await site.catalog.use("m", frozenset(), targets) == [site.backends[idle].target]


async def test_a_request_that_one_form_does_not_support_uses_another() -> None:
    site = await two_forms()

    async def build(model: Model) -> list[str]:
        if model.context_length is None:
            raise UnsupportedParameter("x")
        return await targets(model)

    assert await site.catalog.use("m", frozenset(), build) == ["b:1"]


async def test_a_request_that_no_form_supports_fails_with_the_last_reason() -> None:
    site = await two_forms()

    async def build(model: Model) -> list[str]:
        raise UnsupportedParameter(str(model.context_length))

    with pytest.raises(UnsupportedParameter) as caught:
        await site.catalog.use("m", frozenset(), build)
    assert caught.value.param == "9"


async def test_failed_backends_are_left_out_if_there_are_others() -> None:
    site = await Site(FakeBackend("a:1"), FakeBackend("b:1")).learn()
    assert await site.catalog.use("m", site.failed(0), targets) == ["b:1"]
    assert await site.catalog.use("m", site.failed(0, 1), targets) == ["a:1", "b:1"]


# ---- Retries


async def test_a_request_is_retried_on_backends_where_it_has_not_failed() -> None:
    site = await two_forms()
    assert await site.catalog.retry(error("UNAVAILABLE", *site.failed(0)), "m", frozenset()) == site.failed(0)
    assert await site.catalog.retry(error("UNAVAILABLE", *site.failed(1)), "m", site.failed(0)) is None


@pytest.mark.parametrize("status", ["INVALID_ARGUMENT", "INTERNAL"])
async def test_an_invalid_request_is_not_retried(status: str) -> None:
    site = await two_forms()
    assert await site.catalog.retry(error(status, *site.failed(0)), "m", frozenset()) is None
    assert await site.catalog.retry(error("UNAVAILABLE"), "m", frozenset()) is None


async def test_a_request_without_a_model_is_retried_with_the_new_default() -> None:
    site = await Site(FakeBackend()).learn()
    site.backends[0].names = ["next"]
    not_found = error("NOT_FOUND", *site.failed(0))
    assert await site.catalog.retry(not_found, "m", frozenset()) is None  # the request names that model
    assert site.lists == [0]
    assert await site.catalog.retry(not_found, None, frozenset()) == site.failed(0)
    assert (await site.catalog.resolve(None)).name == "next"


async def test_the_default_is_looked_up_again_once_an_interval() -> None:
    site = await Site(FakeBackend()).learn()
    not_found = error("NOT_FOUND", *site.failed(0))
    for now, n_lists in ((0.0, 1), (LOOKUP_INTERVAL / 2, 1), (LOOKUP_INTERVAL, 2)):
        site.now = now
        assert await site.catalog.retry(not_found, None, frozenset()) is None
        assert site.lists == [n_lists]


async def test_a_failed_lookup_of_the_default_keeps_the_first_error() -> None:
    site = await Site(FakeBackend()).learn()
    site.backends[0].lookup_error = away()
    assert await site.catalog.retry(error("NOT_FOUND", *site.failed(0)), None, frozenset()) is None


# ---- Readiness


async def test_the_default_model_needs_a_ready_backend() -> None:
    site = await Site(FakeBackend()).learn()
    await site.catalog.check_default()
    site.backends[0].is_ready = False
    with pytest.raises(Unavailable, match="default model 'm'"):
        await site.catalog.check_default()

"""TLS between the sidecar's backend and the worker's server, both as they are, without a model."""

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from click import ClickException
from click.testing import CliRunner

from anyserve_common import file_watch
from anyserve_worker.__main__ import main as worker_command
from anyserve_worker.service.server import StartError, Worker
from anyserve_worker.service.server_options import ServerOptions
from anyserve_worker.service.tls import TLS
from openai_server.backends.pool import Pool
from openai_server.cli import command
from openai_server.config import Config
from openai_server.core.errors import BackendError
from openai_server.serving import backends
from tests.certificates import Authority


@pytest.fixture
def ours(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ours")


@pytest.fixture
def theirs(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "theirs")


@asynccontextmanager
async def served(tls: TLS | None) -> AsyncIterator[int]:
    options = ServerOptions(
        models=(), hosts=("127.0.0.1",), port=0, drain_timeout=0, log_level="info", threads=1, tls=tls
    )
    worker = await Worker.listen(options)
    try:
        yield worker.port
    finally:
        await worker.drain(0)


@asynccontextmanager
async def asking(port: int, **config: Any) -> AsyncIterator[Pool]:
    given: dict[str, Any] = {"anyserve_endpoint": (f"localhost:{port}",), "backend_tls": True, **config}
    given |= {name: str(value) for name, value in given.items() if isinstance(value, Path)}
    pool = backends(Config(**given))
    try:
        yield pool
    finally:
        await pool.close()


async def models(pool: Pool) -> list[str]:
    await pool.resolved(10)
    return await pool.members[0].backend.models()


async def refused(port: int, **config: Any) -> None:
    async with asking(port, **config) as pool:
        with pytest.raises(BackendError) as caught:
            await models(pool)
        assert caught.value.status == "UNAVAILABLE"


async def test_the_backend_must_be_who_it_should_be(ours: Authority, theirs: Authority) -> None:
    async with served(TLS(*ours.issue("localhost"))) as port:
        async with asking(port, backend_ca=ours.file) as pool:
            assert await models(pool) == []
        await refused(port, backend_ca=theirs.file)
        await refused(port)  # the system's authorities don't know ours
        await refused(port, backend_tls=False)
        await refused(port, backend_ca=ours.file, backend_server_name="other.example")


async def test_a_name_other_than_the_endpoints(ours: Authority) -> None:
    async with served(TLS(*ours.issue("worker.example"))) as port:
        await refused(port, backend_ca=ours.file)
        async with asking(port, backend_ca=ours.file, backend_server_name="worker.example") as pool:
            assert await models(pool) == []


async def test_each_address_of_a_name_shows_a_certificate_for_the_name(ours: Authority) -> None:
    async with AsyncExitStack() as stack:
        port = await stack.enter_async_context(served(TLS(*ours.issue("localhost"))))
        name = (f"dns:///localhost:{port}",)
        pool = await stack.enter_async_context(asking(port, anyserve_endpoint=name, backend_ca=ours.file))
        watching = asyncio.create_task(pool.watch())
        try:
            assert await asyncio.wait_for(models(pool), 10) == []
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)


async def test_the_client_must_be_known_too(ours: Authority, theirs: Authority) -> None:
    mine, key = ours.issue("sidecar")
    strange, strange_key = theirs.issue("sidecar")
    async with served(TLS(*ours.issue("localhost"), ours.file)) as port:
        async with asking(port, backend_ca=ours.file, backend_cert=mine, backend_key=key) as pool:
            assert await models(pool) == []
        await refused(port, backend_ca=ours.file)
        await refused(port, backend_ca=ours.file, backend_cert=strange, backend_key=strange_key)


async def test_a_certificate_is_renewed_without_a_restart(ours: Authority, theirs: Authority) -> None:
    certificate, key = ours.issue("localhost")
    async with served(TLS(certificate, key)) as port, asking(port, backend_ca=ours.file) as before:
        assert await models(before) == []
        certificate.write_text("half of a certif")
        async with asking(port, backend_ca=ours.file) as pool:
            assert await models(pool) == []
        for new, old in zip(theirs.issue("localhost"), (certificate, key), strict=True):
            os.replace(new, old)
        async with asking(port, backend_ca=theirs.file) as pool:
            assert await models(pool) == []
        await refused(port, backend_ca=ours.file)
        assert await models(before) == []


async def test_the_sidecar_renews_what_it_trusts_and_shows(
    ours: Authority,
    theirs: Authority,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(file_watch, "INTERVAL", 0.02)
    caplog.set_level(logging.INFO)
    shown, key = ours.issue("sidecar")
    trusted = tmp_path / "trusted.pem"

    def trust(authority: Authority) -> None:
        fresh = trusted.with_suffix(".new")
        fresh.write_bytes(authority.file.read_bytes())
        os.replace(fresh, trusted)

    async def logged(text: str, times: int = 1) -> None:
        async with asyncio.timeout(10):
            while caplog.text.count(text) < times:  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    async def answers(pool: Pool) -> bool:
        try:
            return await asyncio.wait_for(models(pool), 10) == []
        except BackendError:
            return False

    trust(ours)
    async with AsyncExitStack() as stack:
        old = await stack.enter_async_context(served(TLS(*ours.issue("localhost"), ours.file)))
        new = await stack.enter_async_context(served(TLS(*theirs.issue("localhost"), theirs.file)))
        files = {"backend_ca": trusted, "backend_cert": shown, "backend_key": key}
        to_old = await stack.enter_async_context(asking(old, **files))
        to_new = await stack.enter_async_context(asking(new, **files))
        watching = [asyncio.create_task(pool.watch()) for pool in (to_old, to_new)]
        try:
            assert [await answers(pool) for pool in (to_old, to_new)] == [True, False]
            good = shown.read_bytes()
            shown.write_text("half of a certif")
            await logged("keeping what was there before", times=2)
            assert [await answers(pool) for pool in (to_old, to_new)] == [True, False]
            shown.write_bytes(good)
            await logged("read again", times=2)
            trust(theirs)
            for fresh, before in zip(theirs.issue("sidecar"), (shown, key), strict=True):
                os.replace(fresh, before)
            async with asyncio.timeout(10):
                while [await answers(pool) for pool in (to_old, to_new)] != [False, True]:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
        finally:
            for task in watching:
                task.cancel()
            await asyncio.gather(*watching, return_exceptions=True)


async def test_files_that_are_no_certificates(ours: Authority, tmp_path: Path) -> None:
    certificate, key = ours.issue("localhost")
    _, other_key = ours.issue("other")
    nonsense = tmp_path / "nonsense.pem"
    nonsense.write_text("nonsense")
    for tls in (
        TLS(nonsense, key),
        TLS(certificate, nonsense),
        TLS(certificate, other_key),
        TLS(certificate, key, nonsense),
        TLS(tmp_path / "absent", key),
    ):
        with pytest.raises(StartError, match="cannot serve TLS: "):
            await Worker.listen(ServerOptions((), ("127.0.0.1",), 0, 0, "info", 1, tls=tls))
    for files in ({"backend_ca": nonsense}, {"backend_cert": certificate, "backend_key": other_key}):
        given: dict[str, Any] = {name: str(path) for name, path in files.items()}
        with pytest.raises(ClickException, match="--backend-ca, --backend-cert"):
            backends(Config(backend_tls=True, **given))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--backend-tls", "--backend-cert", "FILE"], "must be set together"),
        (["--backend-ca", "FILE"], "need --backend-tls"),
        (["--backend-tls", "--backend-ca", "/no/such/file"], "does not exist"),
    ],
)
def test_options_of_the_sidecar_that_make_no_sense(options: list[str], said: str) -> None:
    result = CliRunner().invoke(command(lambda _: None), [__file__ if o == "FILE" else o for o in options])
    assert result.exit_code == 2
    assert said in result.output


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--tls-cert", "FILE"], "go together"),
        (["--tls-client-ca", "FILE"], "needs --tls-cert"),
        (["--tls-cert", "/no/such/file"], "does not exist"),
    ],
)
def test_options_of_the_worker_that_make_no_sense(options: list[str], said: str) -> None:
    result = CliRunner().invoke(worker_command, ["--model", "x=y", *(__file__ if o == "FILE" else o for o in options)])
    assert result.exit_code == 2
    assert said in result.output

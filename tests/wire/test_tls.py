"""TLS between the sidecar's backend and the worker's server, both unmodified, without a model."""

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
from anyserve_common.pem_files import PEMFiles
from anyserve_worker.__main__ import main as worker_command
from anyserve_worker.service.server import StartError, Worker
from anyserve_worker.service.server_options import ServerOptions
from openai_server.backends.pool import Pool
from openai_server.cli import command
from openai_server.config import Config
from openai_server.core.errors import BackendError
from openai_server.serving import backends
from tests.certificates import Authority


@pytest.fixture
def trusted_ca(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ours")


@pytest.fixture
def other_ca(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "theirs")


@asynccontextmanager
async def tls_worker(tls: PEMFiles | None) -> AsyncIterator[int]:
    options = ServerOptions(
        models=(), hosts=("127.0.0.1",), port=0, drain_timeout=0, log_level="info", threads=1, tls=tls
    )
    worker = await Worker.listen(options)
    try:
        yield worker.port
    finally:
        await worker.drain(0)


@asynccontextmanager
async def connecting_pool(port: int, **config: Any) -> AsyncIterator[Pool]:
    settings: dict[str, Any] = {"anyserve_endpoint": (f"localhost:{port}",), "backend_tls": True, **config}
    settings |= {name: str(value) for name, value in settings.items() if isinstance(value, Path)}
    pool = backends(Config(**settings))
    try:
        yield pool
    finally:
        await pool.close()


async def models(pool: Pool) -> list[str]:
    await pool.resolved(10)
    return [entry.name for entry in await pool.members[0].backend.index() if entry.is_ready]


async def refused(port: int, **config: Any) -> None:
    async with connecting_pool(port, **config) as pool:
        with pytest.raises(BackendError) as caught:
            await models(pool)
        assert caught.value.status == "UNAVAILABLE"


async def test_the_backend_needs_a_trusted_certificate_with_the_right_name(
    trusted_ca: Authority, other_ca: Authority
) -> None:
    async with tls_worker(PEMFiles(*trusted_ca.issue("localhost"))) as port:
        async with connecting_pool(port, backend_ca=trusted_ca.file) as pool:
            assert await models(pool) == []
        await refused(port, backend_ca=other_ca.file)
        await refused(port)  # the system's authorities don't include ours
        await refused(port, backend_tls=False)
        await refused(port, backend_ca=trusted_ca.file, backend_server_name="other.example")


async def test_a_certificate_may_have_the_name_in_backend_server_name(trusted_ca: Authority) -> None:
    async with tls_worker(PEMFiles(*trusted_ca.issue("worker.example"))) as port:
        await refused(port, backend_ca=trusted_ca.file)
        async with connecting_pool(port, backend_ca=trusted_ca.file, backend_server_name="worker.example") as pool:
            assert await models(pool) == []


async def test_every_address_of_a_name_needs_a_certificate_for_the_name(trusted_ca: Authority) -> None:
    async with AsyncExitStack() as stack:
        port = await stack.enter_async_context(tls_worker(PEMFiles(*trusted_ca.issue("localhost"))))
        name = (f"dns:///localhost:{port}",)
        pool = await stack.enter_async_context(
            connecting_pool(port, anyserve_endpoint=name, backend_ca=trusted_ca.file)
        )
        watching = asyncio.create_task(pool.watch())
        try:
            assert await asyncio.wait_for(models(pool), 10) == []
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)


async def test_the_client_needs_a_trusted_certificate_too(trusted_ca: Authority, other_ca: Authority) -> None:
    certificate, key = trusted_ca.issue("sidecar")
    untrusted, untrusted_key = other_ca.issue("sidecar")
    async with tls_worker(PEMFiles(*trusted_ca.issue("localhost"), trusted_ca.file)) as port:
        async with connecting_pool(port, backend_ca=trusted_ca.file, backend_cert=certificate, backend_key=key) as pool:
            assert await models(pool) == []
        await refused(port, backend_ca=trusted_ca.file)
        await refused(port, backend_ca=trusted_ca.file, backend_cert=untrusted, backend_key=untrusted_key)


async def test_a_certificate_is_renewed_without_a_restart(trusted_ca: Authority, other_ca: Authority) -> None:
    certificate, key = trusted_ca.issue("localhost")
    async with (
        tls_worker(PEMFiles(certificate, key)) as port,
        connecting_pool(port, backend_ca=trusted_ca.file) as before,
    ):
        assert await models(before) == []
        certificate.write_text("half of a certif")
        async with connecting_pool(port, backend_ca=trusted_ca.file) as pool:
            assert await models(pool) == []
        for new, old in zip(other_ca.issue("localhost"), (certificate, key), strict=True):
            os.replace(new, old)
        async with connecting_pool(port, backend_ca=other_ca.file) as pool:
            assert await models(pool) == []
        await refused(port, backend_ca=trusted_ca.file)
        assert await models(before) == []


async def test_the_sidecar_renews_its_ca_and_its_certificate(
    trusted_ca: Authority,
    other_ca: Authority,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(file_watch, "INTERVAL", 0.02)
    caplog.set_level(logging.INFO)
    certificate, key = trusted_ca.issue("sidecar")
    trusted = tmp_path / "trusted.pem"

    def trust(authority: Authority) -> None:
        fresh = trusted.with_suffix(".new")
        fresh.write_bytes(authority.file.read_bytes())
        os.replace(fresh, trusted)

    async def wait_for_log(text: str, times: int = 1) -> None:
        async with asyncio.timeout(10):
            while caplog.text.count(text) < times:  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    async def is_answered(pool: Pool) -> bool:
        try:
            return await asyncio.wait_for(models(pool), 10) == []
        except BackendError:
            return False

    trust(trusted_ca)
    async with AsyncExitStack() as stack:
        old = await stack.enter_async_context(tls_worker(PEMFiles(*trusted_ca.issue("localhost"), trusted_ca.file)))
        new = await stack.enter_async_context(tls_worker(PEMFiles(*other_ca.issue("localhost"), other_ca.file)))
        files = {"backend_ca": trusted, "backend_cert": certificate, "backend_key": key}
        to_old = await stack.enter_async_context(connecting_pool(old, **files))
        to_new = await stack.enter_async_context(connecting_pool(new, **files))
        watching = [asyncio.create_task(pool.watch()) for pool in (to_old, to_new)]
        try:
            assert [await is_answered(pool) for pool in (to_old, to_new)] == [True, False]
            good = certificate.read_bytes()
            certificate.write_text("half of a certif")
            await wait_for_log("keeping the previous contents", times=2)
            assert [await is_answered(pool) for pool in (to_old, to_new)] == [True, False]
            certificate.write_bytes(good)
            await wait_for_log(": reloaded", times=2)
            trust(other_ca)
            for fresh, before in zip(other_ca.issue("sidecar"), (certificate, key), strict=True):
                os.replace(fresh, before)
            async with asyncio.timeout(10):
                while [await is_answered(pool) for pool in (to_old, to_new)] != [False, True]:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
        finally:
            for task in watching:
                task.cancel()
            await asyncio.gather(*watching, return_exceptions=True)


async def test_files_that_are_not_certificates_are_refused(trusted_ca: Authority, tmp_path: Path) -> None:
    certificate, key = trusted_ca.issue("localhost")
    _, other_key = trusted_ca.issue("other")
    nonsense = tmp_path / "nonsense.pem"
    nonsense.write_text("nonsense")
    for tls in (
        PEMFiles(nonsense, key),
        PEMFiles(certificate, nonsense),
        PEMFiles(certificate, other_key),
        PEMFiles(certificate, key, nonsense),
        PEMFiles(tmp_path / "absent", key),
    ):
        with pytest.raises(StartError, match="cannot serve TLS: "):
            await Worker.listen(ServerOptions((), ("127.0.0.1",), 0, 0, "info", 1, tls=tls))
    for files in ({"backend_ca": nonsense}, {"backend_cert": certificate, "backend_key": other_key}):
        settings: dict[str, Any] = {name: str(path) for name, path in files.items()}
        with pytest.raises(ClickException, match="--backend-ca, --backend-cert"):
            backends(Config(backend_tls=True, **settings))


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--backend-tls", "--backend-cert", "FILE"], "must be set together"),
        (["--backend-ca", "FILE"], "need --backend-tls"),
        (["--backend-tls", "--backend-ca", "/no/such/file"], "does not exist"),
    ],
)
def test_invalid_options_of_the_sidecar_are_refused(options: list[str], problem: str) -> None:
    result = CliRunner().invoke(command(lambda _: None), [__file__ if o == "FILE" else o for o in options])
    assert result.exit_code == 2
    assert problem in result.output


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--tls-cert", "FILE"], "go together"),
        (["--tls-client-ca", "FILE"], "needs --tls-cert"),
        (["--tls-cert", "/no/such/file"], "does not exist"),
    ],
)
def test_invalid_options_of_the_worker_are_refused(options: list[str], problem: str) -> None:
    result = CliRunner().invoke(worker_command, ["--model", "x=y", *(__file__ if o == "FILE" else o for o in options)])
    assert result.exit_code == 2
    assert problem in result.output

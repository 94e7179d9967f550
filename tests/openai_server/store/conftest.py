from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from openai_server.store.store import Store
from tests.openai_server.store.stores import KINDS, SHARED_KINDS, opened, postgres, store_url

__all__ = ["postgres"]


@pytest.fixture(params=KINDS)
async def url(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    """The URL of an empty store."""
    async with store_url(request.param, request, tmp_path) as url:
        yield url


@pytest.fixture(params=SHARED_KINDS)
async def shared_url(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    """The URL of an empty store that several processes can use."""
    async with store_url(request.param, request, tmp_path) as url:
        yield url


@pytest.fixture
async def store(url: str) -> AsyncIterator[Store]:
    async with opened(url) as store:
        yield store

"""The libraries of the store are imported when it is opened, and those that are missing are reported."""

import subprocess
import sys
from importlib.util import find_spec

import pytest

from openai_server.store import link
from openai_server.store.errors import BadStore
from tests.openai_server.store.stores import opened

START = """
import asyncio, sys
from openai_server.app import App
from openai_server.config import Config
from openai_server.serving import backends

async def start():
    config = Config(anyserve_endpoint=("127.0.0.1:1",), store=sys.argv[1] if len(sys.argv) > 1 else None)
    await App(config, backends(config)).open_store()

asyncio.run(start())
print(*(name for name in ("sqlalchemy", "alembic", "asyncpg", "openai_server.store.store") if name in sys.modules))
"""


def test_the_interface_imports_no_library_of_databases() -> None:
    program = (
        "import sys\n"
        "import openai_server.store.store\n"
        "print(sorted({'sqlalchemy', 'alembic', 'asyncpg', 'greenlet', 'sqlite3'} & set(sys.modules)))\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"


@pytest.mark.parametrize(
    ("url", "library", "extra"),
    [
        ("sqlite://", "sqlalchemy", "store"),
        ("sqlite://", "alembic", "store"),
        ("postgresql://user:secret@127.0.0.1/name", "alembic", "store"),
        ("postgresql://user:secret@127.0.0.1/name", "asyncpg", "postgres"),
        ("postgresql://user:secret@127.0.0.1/name", "greenlet", "postgres"),
    ],
)
async def test_a_missing_library_is_reported_with_its_extra(
    url: str, library: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "find_spec", lambda name: None if name == library else find_spec(name))
    with pytest.raises(BadStore, match=rf"{library} must be installed: .*\[{extra}\]") as raised:
        async with opened(url):
            pass
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    ("url", "libraries"),
    [((), []), (("sqlite://",), ["sqlalchemy", "alembic", "openai_server.store.store"])],
    ids=["none", "sqlite"],
)
def test_libraries_are_imported_only_for_a_store_that_needs_them(url: tuple[str, ...], libraries: list[str]) -> None:
    result = subprocess.run([sys.executable, "-c", START, *url], capture_output=True, text=True, check=True)
    assert result.stdout.split() == libraries

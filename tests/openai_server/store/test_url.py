"""The URL of a store."""

import re
from pathlib import Path

import pytest

from openai_server.store.errors import BadStore
from openai_server.store.url import PostgresUrl, SQLiteUrl, parsed, without_password


@pytest.mark.parametrize(
    ("url", "file"),
    [
        ("sqlite://", None),
        ("sqlite:///:memory:", None),
        ("sqlite:///store.db", Path("store.db")),
        ("sqlite:///a%20folder/store.db", Path("a folder/store.db")),
        ("sqlite:////var/lib/store.db", Path("/var/lib/store.db")),
    ],
)
def test_urls_of_sqlite(url: str, file: Path | None) -> None:
    assert parsed(url) == SQLiteUrl(file)
    assert parsed(url).is_memory == (file is None)


@pytest.mark.parametrize(
    "rest",
    [
        "user:pw@host:5432/name",
        "user@host/name",
        "/name?host=/var/run/postgresql",
        "user:pw@one:5432,two:5433/name?target_session_attrs=primary",
        "host/name?sslmode=verify-full&sslrootcert=/etc/ca.pem&sslcert=/etc/c.pem&sslkey=/etc/c.key",
    ],
)
@pytest.mark.parametrize("scheme", ["postgresql", "postgres"])
def test_urls_of_postgresql(scheme: str, rest: str) -> None:
    url = parsed(f"{scheme}://{rest}")
    assert isinstance(url, PostgresUrl)
    assert url.dsn == f"postgresql://{rest}"
    assert [name for name, _ in url.files] == re.findall("ssl(?:root)?cert|sslkey", rest)
    assert not parsed(f"{scheme}://{rest}").is_memory


@pytest.mark.parametrize(
    ("url", "part"),
    [
        ("", "sqlite:///FILE"),
        ("store.db", "sqlite:///FILE"),
        ("mysql://user:secret@host/name", r"mysql://user:\*\*\*@host/name"),
        ("postgresql+asyncpg://user:secret@host/name", "must be"),
        ("sqlite:/", "must be"),
        ("sqlite:///", "no file"),
        ("sqlite://store.db", "three slashes"),
        ("sqlite:///store.db?mode=ro", "no parameters"),
        ("postgresql://user:secret@host:port/name", "port"),
        ("postgresql://user:secret@host:0/name", "port"),
        ("postgresql://user:secret@host:99999/name", "port"),
        ("postgresql://user:sec/ret@host/name", "port"),
        ("postgresql://user:secret#secret@host/name", "port"),
        ("postgresql://user:secret@host/name?sslmode=on", "`sslmode` .* got on"),
        ("postgresql://user:secret@host/name?pool_size=3", "`pool_size`; allowed are"),
        ("postgresql://user:secret@host/name?sslmode", "parameters"),
        ("postgresql://user:secret?sec@ret@host/name?x", "parameters"),
        ("postgresql://host/name?password=secret&x", "parameters"),
    ],
)
def test_other_urls_are_refused_without_their_passwords(url: str, part: str) -> None:
    with pytest.raises(BadStore, match=part) as raised:
        parsed(url)
    message = str(raised.value)
    assert "sec" not in message
    assert "ret" not in message
    assert not message.endswith(".")


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("sqlite:///store.db", "sqlite:///store.db"),
        ("postgresql://user:pw@host:1/name?sslmode=require", "postgresql://user:***@host:1/name?sslmode=require"),
        ("postgresql://user@host/name", "postgresql://user@host/name"),
        ("postgresql://u:p@w:x@host/name", "postgresql://u:***@host/name"),
        ("postgresql://u:p/?#w@host/name", "postgresql://u:***@host/name"),
        ("postgresql://host/name?password=pw&user=u", "postgresql://host/name?password=***&user=u"),
        ("postgresql://host/name?sslp%61ssword=pw", "postgresql://host/name?sslp%61ssword=***"),
        ("user:pw@host", "***"),
    ],
)
def test_urls_in_logs_have_no_password(url: str, expected: str) -> None:
    assert without_password(url) == expected

"""The URL of a store. PURE."""

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

from openai_server.store.errors import BadStore

SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
PARAMETERS = frozenset(
    (
        *("host", "port", "user", "dbname", "database", "password", "passfile", "target_session_attrs"),
        *("sslmode", "sslcert", "sslkey", "sslpassword", "sslrootcert", "sslcrl", "sslnegotiation"),
        *("ssl_min_protocol_version", "ssl_max_protocol_version", "application_name", "options", "search_path"),
    )
)
"""Parameters after `?` in the URL of PostgreSQL, by the names of libpq."""
FILES = ("sslcert", "sslkey", "sslrootcert", "sslcrl")
FORMS = "sqlite:///FILE, sqlite:// (memory), or postgresql://USER:PASSWORD@HOST:PORT/DATABASE"


@dataclass(frozen=True, slots=True)
class SQLiteUrl:
    file: Path | None
    """None: memory."""

    @property
    def is_memory(self) -> bool:
        return self.file is None


@dataclass(frozen=True, slots=True)
class PostgresUrl:
    dsn: str
    """With the password; `asyncpg.connect` parses it."""
    files: tuple[tuple[str, Path], ...] = ()
    """The files that parameters name, with the names of those."""

    @property
    def is_memory(self) -> bool:
        return False


StoreUrl = SQLiteUrl | PostgresUrl


def parsed(url: str) -> StoreUrl:
    """Raises BadStore, without the password."""
    scheme, separator, rest = url.partition("://")
    if scheme == "sqlite" and separator:
        return _sqlite(rest)
    if scheme in ("postgresql", "postgres") and separator:
        return _postgres(f"postgresql://{rest}")
    raise BadStore(f"The store must be {FORMS}, got {without_password(url)}")


def _sqlite(rest: str) -> SQLiteUrl:
    if "?" in rest or "#" in rest:
        raise BadStore(f"The URL of an SQLite file has no parameters, got sqlite://{rest}")
    if rest in ("", "/:memory:"):
        return SQLiteUrl(None)
    if rest == "/":
        raise BadStore("The URL of an SQLite file has no file; sqlite:// is memory")
    if not rest.startswith("/"):
        raise BadStore(
            f"The URL of an SQLite file has three slashes before a relative path and four before an absolute one, got "
            f"sqlite://{rest}"
        )
    return SQLiteUrl(Path(unquote(rest[1:])))


def _postgres(url: str) -> PostgresUrl:
    try:
        parts = urlsplit(url)
        parameters = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    except ValueError:
        raise BadStore(f"The URL of the store has invalid parameters: {without_password(url)}") from None
    for name, value in parameters:
        if name not in PARAMETERS:
            raise BadStore(
                f"The URL of the store has the parameter `{name}`; allowed are {', '.join(sorted(PARAMETERS))}"
            )
        if name == "sslmode" and value not in SSL_MODES:
            raise BadStore(f"`sslmode` of the store must be one of {', '.join(SSL_MODES)}, got {value}")
    places = parts.netloc.rpartition("@")[2].split(",")
    if parts.fragment or not all(_has_valid_port(place) for place in places):
        raise BadStore(
            f"The URL of the store has a wrong port, or a `#` that isn't written %23: {without_password(url)}"
        )
    return PostgresUrl(url, tuple((name, Path(value)) for name, value in parameters if name in FILES))


def _has_valid_port(place: str) -> bool:
    _, colon, port = place.rpartition(":")
    if not colon or place.endswith("]"):  # an IPv6 address alone
        return True
    return not port or (port.isdecimal() and 0 < int(port) < 65536)


def without_password(url: str) -> str:
    """Returns the URL for logs: everything that may be a password is replaced by `***`."""
    start, separator, rest = url.partition("://")
    if not separator:
        return "***" if "@" in url else url
    # A password may contain characters that should have been encoded, such as ? and /.
    user_info, at, place = rest.rpartition("@")
    user, colon, _ = user_info.partition(":")
    place, question, query = place.partition("?")
    parameters = (
        f"{name}=***" if "password" in unquote(name).lower() else f"{name}{equals}{value}"
        for name, equals, value in (parameter.partition("=") for parameter in query.split("&"))
    )
    return f"{start}://{user}{colon and ':***'}{at}{place}{question}{'&'.join(parameters)}"

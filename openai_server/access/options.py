"""The options of the door: keys, browsers, TLS, and how much is let in."""

import re
from collections.abc import Sequence
from pathlib import Path

import click

from openai_server.config import EmptyIsGiven, count, names, option, path, seconds


def _api_keys(context: click.Context, option: click.Parameter, given: Sequence[str]) -> tuple[str, ...]:
    """No message holds a key."""
    from openai_server.access import keys  # and with it protobuf, which the parent of several processes does not need

    found = names(context, option, given)
    if given and not found:  # such as a variable of the shell that is not set: not a reason to let everybody in
        raise click.BadParameter("it is empty.")
    try:
        keys.keys_from_options(found)
    except keys.BadKeys as error:
        raise click.BadParameter(f"{error}.") from None
    return found


def _api_key_file(_: click.Context, __: click.Parameter, path: Path | None) -> Path | None:
    if path is not None:
        from openai_server.access import key_ring, keys

        if path == Path():
            raise click.BadParameter("it is empty.")
        try:
            key_ring.read(path)
        except keys.BadKeys as error:
            raise click.BadParameter(f"'{path}': {error}.") from None
    return path


def check_keys(given: Sequence[str], path: Path) -> None:
    """Both together. Raises UsageError."""
    from openai_server.access import key_ring, keys

    try:
        key_ring.KeyRing(given, path)
    except keys.BadKeys as error:
        raise click.UsageError(f"--api-key-file '{path}': {error}.") from None


_ORIGIN = re.compile(r"\*|[a-z][a-z0-9+.-]*://[^/\s?#@]+")


def _origins(context: click.Context, option: click.Parameter, given: Sequence[str]) -> tuple[str, ...]:
    origins = names(context, option, given)
    for origin in origins:
        if not _ORIGIN.fullmatch(origin):
            raise click.BadParameter(f"{origin!r} is not of the form http://host:port, nor '*'.")
    return origins


ACCESS_OPTIONS = (
    option(
        "--api-key",
        "Key that requests must show as `Authorization: Bearer KEY`; repeatable. Other users of the machine can see"
        " the command line: the variable or --api-key-file keeps it from them.",
        metavar="KEY",
        cls=EmptyIsGiven,
        callback=_api_keys,
        multiple=True,
    ),
    option(
        "--api-key-file",
        "File of further keys, one a line, or `name: key`; keys of one name share its limits. Read again when it"
        " changes.",
        cls=EmptyIsGiven,
        **path(callback=_api_key_file),
    ),
    option(
        "--cors-origin",
        "Origin of web pages that may use this server, such as https://chat.example.com, or `*`; repeatable.",
        metavar="ORIGIN",
        callback=_origins,
        multiple=True,
    ),
    option("--tls-cert", "Certificate with its chain (PEM): serves HTTPS. Read again when it changes.", **path()),
    option("--tls-key", "Its key (PEM), if that is not in the same file.", **path()),
    option("--tls-client-ca", "CA (PEM) of the certificates that clients then have to show.", **path()),
    option(
        "--max-connections",
        "Open connections, in each process; above it the answer is 503. Fewer where the limit of open files is lower.",
        **count(1),
    ),
    option(
        "--header-timeout", "Longest time for a request's headers, then 408; and for a handshake of TLS.", **seconds()
    ),
    option("--body-timeout", "Longest time for a request's body; then 408.", **seconds()),
    option("--send-timeout", "Longest time that a client may not read what waits for it.", **seconds()),
    option(
        "--keep-alive-timeout",
        "Time after which a connection without a request is closed.",
        type=click.IntRange(1),
        metavar="SECONDS",
    ),
    option("--max-concurrency", "Requests that run at a time, in each process; 0 is no limit.", **count(0)),
    option(
        "--max-queue",
        "Requests that wait for a place, in each process; above it the answer is 429. API keys take turns.",
        **count(0),
    ),
    option(
        "--queue-timeout",
        "Longest time that a request waits for a place; then the answer is 429. 0 is no limit.",
        **seconds(0),
    ),
    option(
        "--requests-per-minute",
        "Requests of each API key, in each process; above it the answer is 429. 0 is no limit.",
        **count(0),
    ),
    option(
        "--tokens-per-minute",
        "Tokens, read and generated, of each API key, in each process; above it the answer is 429. 0 is no limit.",
        **count(0),
    ),
    option(
        "--max-output-tokens",
        "Largest `max_tokens`, and where a request without one ends; 0 is no limit but the context.",
        **count(0),
    ),
    option("--max-n", "Largest `n` and `best_of`.", **count(1, 128)),
    option("--max-prompt-chars", "Characters of a prompt, or token ids; 0 is no limit.", **count(0)),
    option(
        "--max-schema-bytes",
        "Bytes of a JSON Schema (as compact JSON), regular expression or grammar; 0 is no limit.",
        **count(0),
    ),
)

"""The options for access: API keys, CORS, TLS, connections and limits."""

import re
from collections.abc import Sequence
from pathlib import Path

import click

from anyserve_common.command_line import names
from openai_server.config import EmptyVariableOption, count, option, path, seconds


def _api_keys(context: click.Context, option: click.Parameter, values: Sequence[str]) -> tuple[str, ...]:
    """Checks the keys. No error message contains a key."""
    from openai_server.access import keys  # imports protobuf, which the parent of several processes doesn't need

    api_keys = names(context, option, values)
    if values and not api_keys:  # such as an unset shell variable: it must not turn off authentication
        raise click.BadParameter("it is empty.")
    try:
        keys.keys_from_options(api_keys)
    except keys.BadKeys as error:
        raise click.BadParameter(f"{error}.") from None
    return api_keys


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


def check_keys(api_keys: Sequence[str], path: Path) -> None:
    """Checks the keys of both options together. Raises UsageError."""
    from openai_server.access import key_ring, keys

    try:
        key_ring.KeyRing(api_keys, path)
    except keys.BadKeys as error:
        raise click.UsageError(f"--api-key-file '{path}': {error}.") from None


def _item_keys(context: click.Context, option: click.Parameter, values: Sequence[str]) -> tuple[str, ...]:
    """Checks the keys. No error message contains a key."""
    from openai_server.access import item_keys

    secrets = names(context, option, values)
    if values and not secrets:
        raise click.BadParameter("it is empty.")
    try:
        item_keys.keys_from_options(secrets)
    except item_keys.BadItemKeys as error:
        raise click.BadParameter(f"{error}.") from None
    return secrets


def _item_key_file(_: click.Context, __: click.Parameter, path: Path | None) -> Path | None:
    if path is not None:
        from openai_server.access import item_keys

        if path == Path():
            raise click.BadParameter("it is empty.")
        try:
            item_keys.read(path)
        except item_keys.BadItemKeys as error:
            raise click.BadParameter(f"'{path}': {error}.") from None
    return path


_ORIGIN = re.compile(r"\*|[a-z][a-z0-9+.-]*://[^/\s?#@]+")


def _origins(context: click.Context, option: click.Parameter, values: Sequence[str]) -> tuple[str, ...]:
    origins = names(context, option, values)
    for origin in origins:
        if not _ORIGIN.fullmatch(origin):
            raise click.BadParameter(f"{origin!r} is neither of the form http://host:port nor '*'.")
    return origins


ACCESS_OPTIONS = (
    option(
        "--api-key",
        "Key that requests must send as `Authorization: Bearer KEY`, or in the header `api-key` or `x-api-key`; "
        "repeatable. Other users of the machine can see the command line; use the environment variable or "
        "--api-key-file to hide the key from them.",
        metavar="KEY",
        cls=EmptyVariableOption,
        callback=_api_keys,
        multiple=True,
    ),
    option(
        "--api-key-file",
        "File with more keys, one per line, either `key` or `name: key`; keys with the same name share its limits. "
        "Reloaded when it changes.",
        cls=EmptyVariableOption,
        **path(callback=_api_key_file),
    ),
    option(
        "--item-key",
        "Key, of at least 32 random characters, that encrypts what clients keep for this server: reasoning and "
        "summaries of the Responses API, and omitted reasoning of the Messages API. Repeatable: the first one "
        "encrypts, all of them decrypt. Default: a key in the --store, or without one a new key at each start. Use the "
        "environment variable or --item-key-file to hide the key from other users of the machine.",
        metavar="KEY",
        cls=EmptyVariableOption,
        callback=_item_keys,
        multiple=True,
    ),
    option(
        "--item-key-file",
        "File with more such keys, one per line. Reloaded when it changes.",
        cls=EmptyVariableOption,
        **path(callback=_item_key_file),
    ),
    option(
        "--cors-origin",
        "Origin of web pages that may call this server, such as https://chat.example.com, or `*` for any; repeatable.",
        metavar="ORIGIN",
        callback=_origins,
        multiple=True,
    ),
    option("--tls-cert", "Certificate with its chain (PEM), to serve HTTPS. Reloaded when it changes.", **path()),
    option("--tls-key", "Private key (PEM) of --tls-cert, if it is not in the same file.", **path()),
    option(
        "--tls-client-ca",
        "Certificate authorities (PEM); clients must present a certificate that one of them issued.",
        **path(),
    ),
    option(
        "--max-connections",
        "Maximum number of open connections, in each process; a connection beyond that gets status 503. Lower if the "
        "process may open fewer files.",
        **count(1),
    ),
    option(
        "--header-timeout",
        "Time limit for receiving a request's headers, after which the status is 408; also for a TLS handshake.",
        **seconds(),
    ),
    option(
        "--body-timeout",
        "Time limit for receiving a request's body, or each MiB of a file, after which the status is 408.",
        **seconds(),
    ),
    option("--send-timeout", "Disconnect a client that hasn't read pending data for this long.", **seconds()),
    option(
        "--keep-alive-timeout",
        "Close a connection that has had no request for this long.",
        type=click.IntRange(1),
        metavar="SECONDS",
    ),
    option(
        "--max-concurrency",
        "Maximum number of requests that run at the same time, in each process; 0 is no limit.",
        **count(0),
    ),
    option(
        "--max-queue",
        "Maximum number of requests in the queue for a slot, in each process; a request beyond that gets status 429. "
        "API keys take turns.",
        **count(0),
    ),
    option(
        "--queue-timeout",
        "Time limit for waiting in the queue, after which a request gets status 429. 0 is no limit.",
        **seconds(0),
    ),
    option(
        "--max-priority-requests",
        "Maximum number of requests of each API key that run with `service_tier` `priority` at the same time, in each "
        "process; further ones run as `default`, which the response reports. 0 is none.",
        **count(0),
    ),
    option(
        "--max-flex-requests",
        "Maximum number of requests of each API key with `service_tier` `flex` at the same time, in each process, "
        "running or in the queue; a request beyond that gets status 429. 0 is none.",
        **count(0),
    ),
    option(
        "--requests-per-minute",
        "Maximum requests per minute of each API key, in each process; a request beyond that gets status 429. 0 is no "
        "limit.",
        **count(0),
    ),
    option(
        "--tokens-per-minute",
        "Maximum prompt and generated tokens per minute of each API key, in each process; a request beyond that gets "
        "status 429. 0 is no limit.",
        **count(0),
    ),
    option(
        "--max-output-tokens",
        "Largest `max_tokens`, and the limit for requests without `max_tokens`; 0 is no limit other than the context. "
        "In Anthropic's API, where `max_tokens` is required, a larger value is lowered instead of refused.",
        **count(0),
    ),
    option("--max-n", "Largest `n` and `best_of`.", **count(1, 128)),
    option("--max-prompt-chars", "Maximum length of a prompt, in characters or token ids; 0 is no limit.", **count(0)),
    option(
        "--max-schema-bytes",
        "Maximum bytes of a JSON Schema (as compact JSON), regular expression or grammar, or of all texts to choose "
        "from; 0 is no limit.",
        **count(0),
    ),
)

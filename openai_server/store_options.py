"""The options of the store."""

from pathlib import Path

import click

from openai_server.config import Config, EmptyVariableOption, count, option, seconds


def _url(_: click.Context, __: click.Parameter, value: str | None) -> str | None:
    """Checks the URL. No error message contains its password."""
    if value == "":
        raise click.BadParameter("it is empty.")
    if value is not None:
        from openai_server.store.errors import BadStore
        from openai_server.store.url import parsed

        try:
            parsed(value)
        except BadStore as error:
            raise click.BadParameter(f"{error}.") from None
    return value


def check(config: Config) -> None:
    """Raises UsageError for options that don't fit together."""
    if config.store is None:
        if config.blobs is not None:
            raise click.UsageError("--blobs needs --store.")
        return
    from openai_server.store.url import parsed

    if config.workers > 1 and parsed(config.store).is_memory:
        raise click.UsageError("--store sqlite:// is the memory of one process: --workers must be 1.")


STORE_OPTIONS = (
    option(
        "--store",
        "Database for stored responses, conversations and background responses: `sqlite:///FILE` for one machine, "
        "`postgresql://USER:PASSWORD@HOST/NAME` for several replicas, or `sqlite://` for memory. Default: nothing is "
        "stored. Use the environment variable to hide a password from other users of the machine.",
        metavar="URL",
        cls=EmptyVariableOption,
        callback=_url,
    ),
    option(
        "--blobs",
        "Folder for files, and for the large items of stored responses and conversations, which all replicas must "
        "share. Default: items are in the database, files in the folder `FILE.blobs` beside an SQLite file, or in a "
        "temporary folder for `sqlite://`; with PostgreSQL there are then no files.",
        type=click.Path(path_type=Path, file_okay=False),
        metavar="FOLDER",
    ),
    option(
        "--store-retention",
        "Days after which a stored response is deleted, and a conversation that nothing was added to; 0 keeps them.",
        **{**seconds(0), "metavar": "DAYS"},
    ),
    option(
        "--store-max-objects",
        "Maximum number of stored responses and conversations of each API key, and of its files; 0 is no limit.",
        **count(0),
    ),
    option(
        "--store-max-bytes",
        "Maximum bytes of the stored responses and conversations of each API key; 0 is no limit.",
        **count(0),
    ),
    option(
        "--store-max-file-bytes",
        "Maximum bytes of the files of each API key, and of the parts of its pending uploads; 0 is no limit.",
        **count(0),
    ),
    option("--max-file-bytes", "Maximum bytes of a file that one request uploads.", **count(1)),
    option("--max-upload-bytes", "Maximum bytes of a file that is uploaded in parts.", **count(1)),
    option("--max-upload-parts", "Maximum number of parts of an upload.", **count(1, 10_000)),
    option(
        "--max-background",
        "Maximum number of background responses that run at the same time, in each process; further ones are queued.",
        **count(1),
    ),
    option(
        "--max-batches",
        "Maximum number of batches of each API key that have not ended; 0 is no limit.",
        **count(0),
    ),
    option(
        "--batch-concurrency",
        "Maximum number of lines of batches that run at the same time, in each process.",
        **count(1),
    ),
)

"""The options about files in conversations."""

from collections.abc import Sequence
from importlib.util import find_spec

import click

from anyserve_common.command_line import names
from openai_server.config import count, option


def _prefixes(context: click.Context, option: click.Parameter, values: Sequence[str]) -> tuple[str, ...]:
    """Checks the prefixes, and that there is an HTTP client."""
    prefixes = names(context, option, values)
    if not prefixes:
        return ()
    from openai_server.fetching.urls import BadUrl, parsed_prefix

    for prefix in prefixes:
        try:
            parsed_prefix(prefix)
        except BadUrl as error:
            raise click.BadParameter(f"{prefix!r}: {error}.") from None
    if find_spec("httpx") is None:
        raise click.BadParameter("it needs the package httpx, which the extra `files` installs.")
    return prefixes


PROMPT_FILE_OPTIONS = (
    option(
        "--max-file-tokens",
        "Maximum tokens of the text of a file in a conversation; a longer one gets status 400. Estimated as a quarter "
        "of its bytes if neither this server nor the backend can tokenize. 0 is no limit other than the context.",
        **count(0),
    ),
    option(
        "--file-url",
        "Beginning of the URLs from which conversations may have files, such as https://files.example.com/public/; "
        "repeatable. Default: files from URLs are refused. Redirects must stay within these.",
        metavar="PREFIX",
        callback=_prefixes,
        multiple=True,
    ),
    option(
        "--file-url-private/--no-file-url-private",
        "Fetch such files from hosts in private networks, such as a cluster's, too. Addresses of this machine and of "
        "its link are refused in any case.",
    ),
)

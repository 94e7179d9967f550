"""How both programs define their command and its options."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import click


class _Mistake(click.ClickException):
    exit_code = 2


@contextmanager
def _mistakes_as_one_line() -> Iterator[None]:
    try:
        yield
    except click.UsageError as error:
        raise _Mistake(error.format_message()) from None


class Command(click.Command):
    """Reports a mistake in one line, without click's usage text, since the line may end up in a log."""

    def make_context(self, *args: Any, **options: Any) -> click.Context:
        with _mistakes_as_one_line():
            return super().make_context(*args, **options)

    def invoke(self, ctx: click.Context) -> Any:
        with _mistakes_as_one_line():
            return super().invoke(ctx)


class OptionMaker:
    """Makes a program's options.

    `defaults`: default values by name, for options that are made without one. `prefix`: before an option's name in its
    environment variable, which messages about the option then name; None leaves it to the command's
    `auto_envvar_prefix`.
    """

    def __init__(self, defaults: Mapping[str, Any], prefix: str | None = None) -> None:
        self._defaults = defaults
        self._prefix = prefix

    def __call__(
        self, flag: str, help: str, *, cls: type[click.Option] = click.Option, **settings: Any
    ) -> click.Option:
        name = flag.removeprefix("--").split("/")[0].replace("-", "_")
        kind = settings.get("type")
        if kind is int or isinstance(kind, click.IntRange):
            settings.setdefault("metavar", "N")
        elif isinstance(kind, click.FloatRange):
            settings.setdefault("metavar", "SECONDS")
        if not settings.get("multiple"):
            settings.setdefault("default", self._defaults.get(name))
        envvar = self._prefix and self._prefix + name.upper()
        return cls([flag, name], help=help, envvar=envvar, show_envvar=True, show_default=True, **settings)


def names(_: click.Context, __: click.Parameter, values: Sequence[str]) -> tuple[str, ...]:
    """The names in a repeatable option. One value, such as an environment variable, may hold several names, separated
    by commas or spaces."""
    return tuple(name for value in values for name in re.split(r"[,\s]+", value) if name)


def hosts(context: click.Context, option: click.Parameter, values: Sequence[str]) -> tuple[str, ...]:
    """The `names` in the option. A value without any is an error."""
    addresses = names(context, option, values)
    if values and not addresses:
        raise click.BadParameter("it is empty.")
    return addresses

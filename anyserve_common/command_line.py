"""Base class of both programs' commands."""

from collections.abc import Iterator
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

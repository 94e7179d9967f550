"""What the commands of both programs have alike."""

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
    """Reports a mistake in one line, without click's usage before it: the line is read in a log, among others."""

    def make_context(self, *args: Any, **how: Any) -> click.Context:
        with _mistakes_as_one_line():
            return super().make_context(*args, **how)

    def invoke(self, ctx: click.Context) -> Any:
        with _mistakes_as_one_line():
            return super().invoke(ctx)

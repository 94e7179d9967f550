"""Failure of a script: one line on stderr and a non-zero exit status, never a traceback."""

from __future__ import annotations

import sys
from collections.abc import Callable


class Fail(Exception):
    """The message is the line on stderr: what is wrong, and how the user can fix it."""


def run_main(main: Callable[[], int]) -> None:
    try:
        status = main()
    except Fail as error:
        print(f"error: {error}", file=sys.stderr)
        status = 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        status = 130
    sys.exit(status)

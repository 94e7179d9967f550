"""Handles Ctrl-C until the program installs its own signal handlers."""

import signal


def end_quietly() -> None:
    """Makes SIGINT end the process as SIGTERM does, without Python's traceback.

    If SIGINT is ignored, as in the background of a shell script, it stays ignored.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)

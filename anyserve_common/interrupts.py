"""Ctrl-C before a program handles signals itself."""

import signal


def end_quietly() -> None:
    """From now on SIGINT ends the process as SIGTERM does, without Python's traceback.

    A signal that is ignored, as in the background of a shell script, stays ignored.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)

"""Starts helper processes, for the server."""

import os
import socket
import subprocess
import sys
from collections.abc import Sequence

from openai_server import ENVIRONMENT_PREFIX


def spawn(program: Sequence[str], *, is_silent: bool = False) -> "tuple[subprocess.Popen[bytes], socket.socket]":
    """Starts the program, which takes a millisecond, and returns it with this end of its socket; the number of the
    other end is its last argument. `is_silent`: it writes nothing to the server's output."""
    # Not asyncio's function: uvloop's would fork, which gRPC's threads do not survive.
    own_end, helper_end = socket.socketpair()
    output = subprocess.DEVNULL if is_silent else None
    with helper_end:
        process = subprocess.Popen(
            [*program, str(helper_end.fileno())],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=[helper_end.fileno()],
            start_new_session=True,  # Ctrl-C reaches the server alone
            env=_environment(),
        )
    return process, own_end


def _environment() -> dict[str, str]:
    """Without the server's options, which may contain keys."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith(ENVIRONMENT_PREFIX)}
    return {**variables, "PYTHONPATH": os.pathsep.join(sys.path)}

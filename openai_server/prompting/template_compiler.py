"""Compiles a chat template in a separate process with limits on processor time and memory.

Python's compiler blocks all other threads, and neither it nor Jinja limits the resources that a hostile source uses.
Each compilation starts a process that runs this file. It reads the source from stdin and writes the code and the names
in the syntax tree to stdout, or a description of the problem with the source.
"""

import asyncio
import marshal
import os
import resource
import signal
import subprocess
import sys
from subprocess import DEVNULL, PIPE
from types import CodeType

PROCESSOR_SECONDS = 2.0
"""Processor seconds for one source."""
MEMORY_BYTES = 160 << 20
"""Memory limit of the process. It needs about 12 MiB before the compilation starts."""
TIMEOUT_SECONDS = 60.0
"""Seconds after which a process counts as stuck, however little processor time it has used."""

Compiled = tuple[CodeType, list[str], list[str], bool, list[list[str]]]
"""The fields of source.CompiledSource. marshal supports no classes, and writes frozen sets in no fixed order."""


class CompilerFailed(Exception):
    """The process could not be started, or failed for a reason other than the source."""


async def compile_apart(source: str) -> Compiled | str:
    """The compiled source, or the problem with it. Raises CompilerFailed."""
    try:
        process = _start()
    except OSError as error:
        raise CompilerFailed(str(error)) from error
    try:
        output, _ = await asyncio.to_thread(process.communicate, _encoded(source), TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise CompilerFailed("the process is stuck") from error
    finally:
        process.kill()  # ends a process that still runs, and so the thread that waits for it
    return _result(output, process.returncode)


def _start() -> "subprocess.Popen[bytes]":
    """Takes a millisecond. It doesn't use uvloop's processes, which are forked: gRPC's fork handler then closes pipes
    that the event loop has just opened, and one compilation in thirty failed."""
    return subprocess.Popen(_command(), stdin=PIPE, stdout=PIPE, stderr=DEVNULL, env=_environment())


def problem_with(source: str) -> str | None:
    """Compiles `source` and drops the result. Raises CompilerFailed."""
    process = subprocess.run(
        _command(),
        input=_encoded(source),
        stdout=PIPE,
        stderr=DEVNULL,
        env=_environment(),
        timeout=TIMEOUT_SECONDS,
        check=False,
    )
    result = _result(process.stdout, process.returncode)
    return result if isinstance(result, str) else None


def _command() -> tuple[str, ...]:
    return (sys.executable, "-m", __name__, str(PROCESSOR_SECONDS), str(MEMORY_BYTES))


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


def _encoded(source: str) -> bytes:
    return source.encode("utf-8", "surrogatepass")


def _result(output: bytes, status: int) -> Compiled | str:
    if status == -signal.SIGPROF:
        return f"compiling it takes more than {PROCESSOR_SECONDS:g} s of processor time"
    if status == -signal.SIGSEGV:
        return "it nests too deeply"
    if status:
        raise CompilerFailed(f"the process ended with status {status}")
    result: Compiled | str = marshal.loads(output)  # trusted: written by this module's own process
    return result


# ---- In the process


def main(processor_seconds: float, memory: int) -> None:
    from dataclasses import astuple

    from openai_server.prompting.source import (  # imported here because the parent of workers needs no Jinja
        compile_source,
        problem,
    )

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the server.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    source = sys.stdin.buffer.read().decode("utf-8", "surrogatepass")
    result: Compiled | str
    signal.setitimer(signal.ITIMER_PROF, processor_seconds)  # Ends the process.
    try:
        compiled = compile_source(source)
        result = (
            compiled.code,
            sorted(compiled.variables),
            sorted(compiled.roles),
            compiled.mentions_tool_calls,
            [sorted(words) for words in astuple(compiled.words)],
        )
        output = marshal.dumps(result)
    except Exception as error:  # a source can cause any exception in Jinja and Python
        output = marshal.dumps(problem(error))
    sys.stdout.buffer.write(output)


if __name__ == "__main__":
    main(float(sys.argv[1]), int(sys.argv[2]))

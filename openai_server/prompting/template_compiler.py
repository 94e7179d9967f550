"""Compiles a chat template in a process of its own, which has little processor time and memory.

Python's compiler blocks all other threads, and neither it nor Jinja bounds what a hostile source takes.
Each compilation starts a process, which runs this file: the source goes in, the code and what is read from the syntax
tree come out, or the problem with the source.
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
MEMORY = 160 << 20
"""Bytes of memory that the process may have, some 12 MiB of which it needs before it begins."""
TIMEOUT = 60.0
"""Seconds until a process counts as stuck, however little processor time it has got."""

Compiled = tuple[CodeType, list[str], list[str], bool, list[list[str]]]
"""The fields of source.CompiledSource: marshal knows neither classes nor frozen sets of a fixed order."""


class CompilerFailed(Exception):
    """The process could not be started, or ended for reasons that are not the source's."""


async def compile_apart(source: str) -> Compiled | str:
    """What `source` becomes, or the problem with it. Raises CompilerFailed."""
    try:
        process = _start()
    except OSError as error:
        raise CompilerFailed(str(error)) from error
    try:
        written, _ = await asyncio.to_thread(process.communicate, _encoded(source), TIMEOUT)
    except subprocess.TimeoutExpired as error:
        raise CompilerFailed("the process is stuck") from error
    finally:
        process.kill()  # a process that still runs, so that the thread ends
    return _answer(written, process.returncode)


def _start() -> "subprocess.Popen[bytes]":
    """Takes a millisecond. (uvloop's own processes are forked. gRPC handles a fork, too, and then pipes that the event
    loop has just opened are closed: one compilation in thirty failed.)"""
    return subprocess.Popen(_command(), stdin=PIPE, stdout=PIPE, stderr=DEVNULL, env=_environment())


def problem_with(source: str) -> str | None:
    """Compiles `source` and drops the result. Raises CompilerFailed."""
    done = subprocess.run(
        _command(),
        input=_encoded(source),
        stdout=PIPE,
        stderr=DEVNULL,
        env=_environment(),
        timeout=TIMEOUT,
        check=False,
    )
    answer = _answer(done.stdout, done.returncode)
    return answer if isinstance(answer, str) else None


def _command() -> tuple[str, ...]:
    return (sys.executable, "-m", __name__, str(PROCESSOR_SECONDS), str(MEMORY))


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


def _encoded(source: str) -> bytes:
    return source.encode("utf-8", "surrogatepass")


def _answer(written: bytes, status: int) -> Compiled | str:
    if status == -signal.SIGPROF:
        return f"compiling it takes more than {PROCESSOR_SECONDS:g} s of processor time"
    if status == -signal.SIGSEGV:
        return "it nests too deeply"
    if status:
        raise CompilerFailed(f"the process ended with status {status}")
    answer: Compiled | str = marshal.loads(written)  # from our own process
    return answer


# ---- In the process


def main(processor_seconds: float, memory: int) -> None:
    from dataclasses import astuple

    from openai_server.prompting.source import (  # here alone: the parent of workers needs no Jinja
        compile_source,
        problem,
    )

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the server.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    source = sys.stdin.buffer.read().decode("utf-8", "surrogatepass")
    answer: Compiled | str
    signal.setitimer(signal.ITIMER_PROF, processor_seconds)  # Ends the process.
    try:
        compiled = compile_source(source)
        answer = (
            compiled.code,
            sorted(compiled.variables),
            sorted(compiled.roles),
            compiled.mentions_tool_calls,
            [sorted(words) for words in astuple(compiled.words)],
        )
        written = marshal.dumps(answer)
    except Exception as error:  # whatever a source makes of Jinja and Python
        written = marshal.dumps(problem(error))
    sys.stdout.buffer.write(written)


if __name__ == "__main__":
    main(float(sys.argv[1]), int(sys.argv[2]))

"""Guides are compiled in a process of its own first, which may take as long or fall as hard as a bad one makes it.

llguidance's limits are not everywhere: intersections of regular expressions, `multipleOf` and many repetitions take
minutes or all of the memory, and a chain of a thousand references overflows the stack. Here such a guide ends at most
this process, which has little time and memory, and is started again for the next.

`Trial` is the side of the worker; the process runs this file. A line of JSON goes in, a line of JSON comes back.
"""

import json
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Sequence
from typing import Any

from anyserve_worker.grammar import GrammarError, compiled, tokenizer, translate

PROCESSOR_SECONDS = 0.5
"""For one guide."""
MEMORY = 1 << 30
"""Bytes of address space, of which the process has a part before it begins."""
STACK = 1 << 20
"""Bytes: a part of what the worker's threads have, which compile the same afterwards."""


class Trial:
    """The trial process for the guides of one vocabulary. Safe from any thread; one guide at a time."""

    def __init__(self, n_vocab: int, control: Sequence[bytes]) -> None:
        """`control`: the names of the control tokens."""
        self._vocabulary = [n_vocab, [name.decode(errors="replace") for name in control]]
        self._process: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()
        self._closed = False

    def run(self, language: str, source: str) -> str:
        """The guide in llguidance's own form, once it has been compiled. Raises GrammarError."""
        with self._lock:
            answer = self._answer([language, source])
        if "error" in answer:
            raise GrammarError(answer["error"])
        return str(answer["grammar"])

    def close(self) -> None:
        """Ends the process, whatever it does."""
        self._closed = True
        process = self._process
        if process:
            process.kill()
        with self._lock:
            self._discard()

    def _answer(self, guide: list[str]) -> dict[str, str]:
        process = self._process or self._start()
        assert process.stdin
        assert process.stdout
        try:
            _write(process.stdin, guide)
            line = process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if line:
            return dict(json.loads(line))
        self._discard()
        return {"error": "too complex: it takes too much time or memory to compile"}

    def _start(self) -> "subprocess.Popen[str]":
        if self._closed:
            raise GrammarError("the worker is shutting down")
        self._process = process = subprocess.Popen(
            [sys.executable, "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            encoding="utf-8",
        )
        assert process.stdin
        _write(process.stdin, self._vocabulary)
        return process

    def _discard(self) -> None:
        process, self._process = self._process, None
        if process:
            process.kill()
            process.communicate()


def _write(stream: Any, value: object) -> None:
    stream.write(json.dumps(value) + "\n")
    stream.flush()


# ---- In the process


def main(lines: Iterable[str], answers: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # The worker is asked to end, and ends it.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    threading.stack_size(STACK)
    jobs = map(json.loads, lines)
    n_vocab, control = next(jobs)
    # Which tokens there are beside those is of no consequence for what is tried here.
    tokens = [bytes([byte]) for byte in range(256)] + [name.encode() for name in control]
    end = len(tokens)
    tokens += [b"<|end of the trial|>"] + [b""] * (n_vocab - len(tokens))
    trial_tokenizer = tokenizer(tokens, range(256, end + 1), [end], lambda text: list(text.encode()))

    def attempt(language: str, source: str, answer: dict[str, str]) -> None:
        try:
            grammar = translate(language, source)
            compiled(trial_tokenizer, grammar)
            answer["grammar"] = grammar
        except GrammarError as error:
            answer["error"] = str(error)

    for language, source in jobs:
        answer: dict[str, str] = {}
        thread = threading.Thread(target=attempt, args=(language, source, answer))
        signal.setitimer(signal.ITIMER_PROF, PROCESSOR_SECONDS)  # Ends the process.
        thread.start()
        thread.join()
        signal.setitimer(signal.ITIMER_PROF, 0)
        _write(answers, answer)


if __name__ == "__main__":
    main(sys.stdin, sys.stdout)

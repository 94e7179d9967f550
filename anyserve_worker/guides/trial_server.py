"""The trial server: a process that forks trial processes, each of which compiles guides for one vocabulary.

llguidance's limits don't cover everything: intersections of regular expressions, `multipleOf` and many repetitions take
minutes or all of the memory, and a chain of a thousand references overflows the stack. In a trial process, which has
little time and memory, such a guide ends only that process. Forking the next one takes 2 ms, because the server has
already imported all modules and built the vocabulary.

Standard input is a socket to the worker (`trial.py`). The first message is the vocabulary, the others are commands. The
server has no other threads, so forking is safe.
"""

import json
import os
import resource
import signal
import socket
import struct
import sys
import threading
from contextlib import suppress
from typing import Any

from anyserve_worker.guides.translation import (
    GrammarError,
    GuideTokenizer,
    compile_matcher,
    tokenizer,
    translate,
    translate_and_try,
)

LENGTH = struct.Struct("!I")
"""Length of the vocabulary in bytes. The vocabulary is JSON."""
COMMAND = struct.Struct("!ci")
"""A command and its argument."""
ANSWER = struct.Struct("!i")
FORK = b"f"
"""Command: start a trial on the socket that comes with it. The answer is its process id."""
END = b"e"
"""Command: kill the process with this id if it still runs. The answer is its exit status, negative for a signal."""

MEMORY = 1 << 30
"""Bytes of address space of a process, including what the server uses before it forks."""
STACK = 1 << 20
"""Bytes of stack of a compiling thread: less than in the worker, which compiles the same guide afterwards."""
OOM_SCORE = "1000"
"""Makes Linux kill a trial before the worker when memory runs out."""


def main(commands: socket.socket) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # The worker handles Ctrl-C and ends this process.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    with suppress(OSError), open("/proc/self/oom_score_adj", "w") as score:
        score.write(OOM_SCORE)
    (length,) = LENGTH.unpack(_read(commands, LENGTH.size))
    vocabulary = _tokenizer(*json.loads(_read(commands, length)))
    compile_matcher(vocabulary, translate("regex", "[ab]"))  # Loads before the fork what is loaded at first use.
    while True:
        message, descriptors, *_ = socket.recv_fds(commands, COMMAND.size, 1)
        if not message:
            return
        command, argument = COMMAND.unpack(message + _read(commands, COMMAND.size - len(message)))
        if command == FORK:
            answer = os.fork()
            if not answer:
                try:
                    commands.close()
                    _serve(socket.socket(fileno=descriptors[0]), vocabulary)
                finally:
                    os._exit(0)
            os.close(descriptors[0])
        else:
            os.kill(argument, signal.SIGKILL)  # It exists, at least as a zombie: only this process waits for it.
            answer = os.waitstatus_to_exitcode(os.waitpid(argument, 0)[1])
        commands.sendall(ANSWER.pack(answer))


def _tokenizer(n_vocab: int, control: list[str]) -> GuideTokenizer:
    """A vocabulary of bytes and the control tokens. More tokens would affect only masks, not the time to compile."""
    tokens = [bytes([byte]) for byte in range(256)] + [name.encode() for name in control]
    end = len(tokens)
    tokens += [b"<|end of the trial|>"] + [b""] * (n_vocab - len(tokens))
    return tokenizer(tokens, range(256, end + 1), [end], lambda text: list(text.encode()))


# ---- In a trial process


def _serve(channel: socket.socket, vocabulary: GuideTokenizer) -> None:
    """Reads a line of JSON per guide, [language, source, seconds of processor time], and writes its result."""
    threading.stack_size(STACK)
    with suppress(OSError), channel.makefile("rw", encoding="utf-8") as lines:
        for line in lines:
            language, source, seconds = json.loads(line)
            answer: dict[str, str] = {}
            thread = threading.Thread(target=_attempt, args=(vocabulary, language, source, answer))
            signal.setitimer(signal.ITIMER_PROF, seconds)  # SIGPROF ends the process.
            thread.start()
            thread.join()
            signal.setitimer(signal.ITIMER_PROF, 0)
            lines.write(json.dumps(answer) + "\n")
            lines.flush()


def _attempt(vocabulary: GuideTokenizer, language: str, source: str, answer: dict[str, Any]) -> None:
    try:
        answer["grammar"] = translate_and_try(vocabulary, language, source)
    except GrammarError as error:
        answer["error"] = str(error)
    except BaseException as error:  # llguidance's panics aren't Exceptions.
        answer["error"] = f"it cannot be compiled: {type(error).__name__}"


def _read(stream: socket.socket, n: int) -> bytes:
    """Reads `n` bytes. Ends the process if the worker is gone."""
    data = b""
    while len(data) < n:
        part = stream.recv(n - len(data))
        if not part:
            sys.exit()
        data += part
    return data


if __name__ == "__main__":
    main(socket.socket(fileno=sys.stdin.fileno()))

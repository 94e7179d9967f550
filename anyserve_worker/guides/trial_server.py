"""The trial server: a process that forks trial processes, each of which compiles guides for one vocabulary.

llguidance's limits are not everywhere: intersections of regular expressions, `multipleOf` and many repetitions take
minutes or all of the memory, and a chain of a thousand references overflows the stack. In a trial process such a guide
ends nothing but that process, which has little time and memory. Forking the next one takes 2 ms: the server has
imported everything and built the vocabulary.

Standard input is a socket to the worker (`trial.py`). The first message is the vocabulary, the others are orders. No
thread runs here, so that forking is safe.
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

from anyserve_worker.guides.translation import GrammarError, GuideTokenizer, compiled, tokenizer, translate, tried

LENGTH = struct.Struct("!I")
"""Bytes of the vocabulary, which is JSON."""
ORDER = struct.Struct("!ci")
"""An order and its argument."""
ANSWER = struct.Struct("!i")
FORK = b"f"
"""Start a process that serves the socket that comes along. The answer is its process id."""
END = b"e"
"""Kill the process with this id if it still runs. The answer is its exit status, negative for a signal."""

MEMORY = 1 << 30
"""Bytes of address space, of which the server takes a part before it forks."""
STACK = 1 << 20
"""Bytes: a part of what the worker's threads have, which compile the same afterwards."""
OOM_SCORE = "1000"
"""Where the memory is short, Linux ends a trial before it ends the worker."""


def main(orders: socket.socket) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # The worker handles Ctrl-C, and ends this process.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    with suppress(OSError), open("/proc/self/oom_score_adj", "w") as score:
        score.write(OOM_SCORE)
    (length,) = LENGTH.unpack(_read(orders, LENGTH.size))
    vocabulary = _tokenizer(*json.loads(_read(orders, length)))
    compiled(vocabulary, translate("regex", "[ab]"))  # What is loaded at first use is loaded before the fork.
    while True:
        message, descriptors, *_ = socket.recv_fds(orders, ORDER.size, 1)
        if not message:
            return
        order, argument = ORDER.unpack(message + _read(orders, ORDER.size - len(message)))
        if order == FORK:
            answer = os.fork()
            if not answer:
                try:
                    orders.close()
                    _serve(socket.socket(fileno=descriptors[0]), vocabulary)
                finally:
                    os._exit(0)
            os.close(descriptors[0])
        else:
            os.kill(argument, signal.SIGKILL)  # A zombie at least: nothing else waits for it.
            answer = os.waitstatus_to_exitcode(os.waitpid(argument, 0)[1])
        orders.sendall(ANSWER.pack(answer))


def _tokenizer(n_vocab: int, control: list[str]) -> GuideTokenizer:
    """Bytes and the control tokens. Compiling takes as long with more tokens, which only a mask depends on."""
    tokens = [bytes([byte]) for byte in range(256)] + [name.encode() for name in control]
    end = len(tokens)
    tokens += [b"<|end of the trial|>"] + [b""] * (n_vocab - len(tokens))
    return tokenizer(tokens, range(256, end + 1), [end], lambda text: list(text.encode()))


# ---- In a trial process


def _serve(channel: socket.socket, vocabulary: GuideTokenizer) -> None:
    """One line of JSON in, one out, for each guide: [language, source, seconds of processor time]."""
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
        answer["grammar"] = tried(vocabulary, language, source)
    except GrammarError as error:
        answer["error"] = str(error)
    except BaseException as error:  # llguidance's panics are no Exception.
        answer["error"] = f"it cannot be compiled: {type(error).__name__}"


def _read(stream: socket.socket, n: int) -> bytes:
    """Ends the process if the worker is gone."""
    data = b""
    while len(data) < n:
        part = stream.recv(n - len(data))
        if not part:
            sys.exit()
        data += part
    return data


if __name__ == "__main__":
    main(socket.socket(fileno=sys.stdin.fileno()))

import asyncio
import logging
import sys
from collections.abc import Sequence

import pytest

from openai_server.core.errors import Overloaded, Unavailable
from openai_server.extraction.errors import MissingPackage, Unreadable
from openai_server.extraction.extractor import INLINE_BYTES, Extractor
from openai_server.extraction.frames import Limits
from tests.openai_server.extraction import pdfs


def program(code: str) -> Sequence[str]:
    """A program in place of the one that reads files; `end` is its end of the socket."""
    before = "import os, socket, sys, time; end = socket.socket(fileno=int(sys.argv[1])); "
    return (sys.executable, "-c", before + code)


NO_PROGRAM = ("/does/not/exist",)


async def test_small_plain_text_needs_no_process() -> None:
    extractor = Extractor(program=NO_PROGRAM)
    assert await extractor.text(b"a\0" + b"b" * 200, "a.txt", "caller") == "a" + "b" * 200
    with pytest.raises(Unreadable, match="is an image"):
        await extractor.text(b"\x89PNG\r\n\x1a\n\0", "a.txt", "caller")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("data", "name", "text"),
    [
        (pdfs.ONE_LINE, "a.pdf", "The code is 4711."),
        (b"<p>\xc3\xa4</p>", "a.html", "ä"),
        (b"a" * (INLINE_BYTES + 1), "", "a" * (INLINE_BYTES + 1)),
    ],
)
async def test_other_files_are_read_in_a_process(data: bytes, name: str, text: str) -> None:
    assert await Extractor().text(data, name, "caller") == text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (pdfs.encrypted(), "is encrypted"),
        (pdfs.bomb(), "."),
        (pdfs.huge_count(), "."),
        (b"%PDF-1.7\n" + b"\0" * 1000, "is not a PDF that can be read"),
    ],
)
async def test_hostile_files_are_unreadable(data: bytes, reason: str) -> None:
    with pytest.raises(Unreadable, match=reason):
        await Extractor().text(data, "a.pdf", "caller")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("limits", "n_lines", "reason"),
    [
        (Limits(seconds=0.3), 100_000, "takes too long to read"),
        (Limits(memory=150 << 20), 100_000, "takes too much memory to read"),
        (Limits(text=1000), 100, "has more than 1000 bytes of text"),
    ],
)
async def test_the_limits_of_a_process(limits: Limits, n_lines: int, reason: str) -> None:
    data = pdfs.with_pages([pdfs.lines(*["a" * 100] * n_lines)])
    with pytest.raises(Unreadable, match=reason):
        await Extractor(limits).text(data, "a.pdf", "caller")


async def test_a_process_that_never_answers_is_ended() -> None:
    extractor = Extractor(program=program("time.sleep(600)"), seconds=0.05)
    with pytest.raises(Unreadable, match="takes too long to read"):
        await extractor.text(pdfs.ONE_LINE, "a.pdf", "caller")


@pytest.mark.parametrize(
    "code",
    [
        "end.close()",
        "os._exit(3)",
        "end.sendall(b'X' + bytes(8))",
        "end.sendall(b'T' + bytes([0xff] * 8))",
        "end.sendall(b'T' + bytes([9, 0, 0, 0, 0, 0, 0, 0]) + b'abc')",
        "os.kill(os.getpid(), 9)",
    ],
)
async def test_a_process_that_fails_is_no_fault_of_the_file(code: str, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(Unavailable):
        await Extractor(program=program(code)).text(pdfs.ONE_LINE, "a.pdf", "caller")
    assert "a process that reads files ended with status" in caplog.text


async def test_an_unexpected_error_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    result = "end.sendall(b'F' + bytes([3, 0, 0, 0, 0, 0, 0, 0]) + b'why')"
    with pytest.raises(Unreadable, match="is not a file whose text can be read"):
        await Extractor(program=program(result)).text(pdfs.ONE_LINE, "a.pdf", "caller")
    assert "why" in caplog.text


async def test_a_missing_package_is_named() -> None:
    result = "end.sendall(b'M' + bytes([5, 0, 0, 0, 0, 0, 0, 0]) + b'pypdf')"
    with pytest.raises(MissingPackage, match="pypdf"):
        await Extractor(program=program(result)).text(pdfs.ONE_LINE, "a.pdf", "caller")


async def test_few_processes_run_at_a_time_and_the_queue_has_a_limit() -> None:
    extractor = Extractor(program=program("time.sleep(600)"), seconds=600, processes=1, queue_timeout=0.01)
    first = asyncio.create_task(extractor.text(pdfs.ONE_LINE, "a.pdf", "one"))
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await extractor.text(pdfs.ONE_LINE, "a.pdf", "two")
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first

import asyncio
import logging
from pathlib import Path

import pytest

from anyserve_common import file_watch
from anyserve_common.file_watch import follow, signature


async def test_what_could_not_be_read_is_read_again_though_it_does_not_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(file_watch, "INTERVAL", 0.001)
    file = tmp_path / "keys"
    file.write_text("a")
    seen = signature([file])
    file.write_text("ab")
    tries, read = 0, asyncio.Event()
    loop = asyncio.get_running_loop()

    def changed() -> None:
        nonlocal tries
        tries += 1
        if tries < 4:
            raise OSError(24, "Too many open files")
        loop.call_soon_threadsafe(read.set)

    with caplog.at_level(logging.ERROR):
        following = asyncio.create_task(follow([file], seen, changed))
        await asyncio.wait_for(read.wait(), 10)
        await asyncio.sleep(0.05)
        following.cancel()
    assert tries == 4
    assert len(caplog.records) == 1, "told once"

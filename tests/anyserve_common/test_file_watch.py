import asyncio
import logging
import os
from pathlib import Path

import pytest

from anyserve_common import file_watch
from anyserve_common.file_watch import follow, signature


async def test_a_file_that_could_not_be_read_is_read_again_even_if_it_does_not_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(file_watch, "INTERVAL", 0.001)
    file = tmp_path / "keys"
    file.write_text("a")
    before = signature([file])
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
        following = asyncio.create_task(follow([file], before, changed))
        await asyncio.wait_for(read.wait(), 10)
        await asyncio.sleep(0.05)
        following.cancel()
    assert tries == 4
    assert len(caplog.records) == 1, "logged once"


def test_a_replaced_file_has_another_version(tmp_path: Path) -> None:
    """Kubernetes moves a symlink to another folder, whose file may have the same size and time."""
    file = tmp_path / "current" / "keys"
    versions = []
    for folder in ("first", "second"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "keys").write_text("abc")
        os.utime(tmp_path / folder / "keys", (1, 1))
        file.parent.unlink(missing_ok=True)
        file.parent.symlink_to(folder)
        versions.append(signature([file]))
    assert versions[0] != versions[1]
    assert signature([file, tmp_path / "absent"]) == (*versions[1], None)

import fcntl
import os
from pathlib import Path

from openai_server.telemetry import sharing


def left_behind(root: Path) -> Path:
    directory = root / "openai_server-killed"
    directory.mkdir()
    (directory / "lock").touch()
    (directory / "counter_1.db").touch()
    return directory


def test_the_directory_is_there_for_as_long_as_it_is_needed(tmp_path: Path) -> None:
    with sharing.shared(str(tmp_path)):
        assert sharing.is_shared()
        assert Path(os.environ[sharing.DIRECTORY]).parent == tmp_path
    assert not sharing.is_shared()
    assert not list(tmp_path.iterdir())


def test_what_a_killed_parent_left_is_removed(tmp_path: Path) -> None:
    killed = left_behind(tmp_path)
    other = tmp_path / "somebody-elses"
    other.mkdir()
    with sharing.shared(str(tmp_path)):
        assert not killed.exists()
    assert list(tmp_path.iterdir()) == [other]


def test_who_lives(tmp_path: Path) -> None:
    with sharing.shared(str(tmp_path)):
        directory = Path(os.environ[sharing.DIRECTORY])
        for name in ("gauge_livemax_7", "gauge_livesum_7", "gauge_livesum_12", "counter_3"):
            (directory / f"{name}.db").touch()
        assert sharing.processes() == [7, 12]
        sharing.forget(7)
        assert sharing.processes() == [12]


def test_what_another_parent_uses_stays(tmp_path: Path) -> None:
    living = left_behind(tmp_path)
    with (living / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with sharing.shared(str(tmp_path)):
            pass
    assert len(list(living.iterdir())) == 2

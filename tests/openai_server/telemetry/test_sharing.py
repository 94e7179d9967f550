import fcntl
import os
from pathlib import Path

from openai_server.telemetry import sharing


def abandoned_directory(root: Path) -> Path:
    directory = root / "openai_server-killed"
    directory.mkdir()
    (directory / "lock").touch()
    (directory / "counter_1.db").touch()
    return directory


def test_the_directory_exists_only_while_it_is_shared(tmp_path: Path) -> None:
    with sharing.shared(str(tmp_path)):
        assert sharing.is_shared()
        assert Path(os.environ[sharing.DIRECTORY]).parent == tmp_path
    assert not sharing.is_shared()
    assert not list(tmp_path.iterdir())


def test_the_directory_of_a_killed_parent_is_removed(tmp_path: Path) -> None:
    killed = abandoned_directory(tmp_path)
    other = tmp_path / "unrelated"
    other.mkdir()
    with sharing.shared(str(tmp_path)):
        assert not killed.exists()
    assert list(tmp_path.iterdir()) == [other]


def test_live_processes_are_listed_until_forgotten(tmp_path: Path) -> None:
    with sharing.shared(str(tmp_path)):
        directory = Path(os.environ[sharing.DIRECTORY])
        for name in ("gauge_livemax_7", "gauge_livesum_7", "gauge_livesum_12", "counter_3"):
            (directory / f"{name}.db").touch()
        assert sharing.processes() == [7, 12]
        sharing.forget(7)
        assert sharing.processes() == [12]


def test_the_directory_of_another_running_parent_stays(tmp_path: Path) -> None:
    living = abandoned_directory(tmp_path)
    with (living / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with sharing.shared(str(tmp_path)):
            pass
    assert len(list(living.iterdir())) == 2

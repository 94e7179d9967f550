import os
import subprocess
import sys
import time

from scripts import children

IGNORES_SIGTERM = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
)


def test_a_child_that_ignores_sigterm_is_killed() -> None:
    child = children.start([sys.executable, "-c", IGNORES_SIGTERM], output=subprocess.PIPE)
    assert child.stdout
    with child.stdout:
        assert child.stdout.readline() == "up\n"
        started = time.monotonic()
        children.end([child], grace_s=0.2)
    assert child.returncode == -9
    assert time.monotonic() - started < 5


def test_grandchildren_end_too() -> None:
    spawn = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {IGNORES_SIGTERM!r}])"
    child = children.start([sys.executable, "-c", spawn], output=subprocess.PIPE)
    assert child.stdout
    with child.stdout:
        # The child ends at once. The grandchild holds the pipe, which closes when the grandchild ends.
        assert child.stdout.readline() == "up\n"
        children.end([child], grace_s=5)
        assert child.stdout.read() == ""


def test_a_child_has_its_own_process_group() -> None:
    child = children.start([sys.executable, "-c", "import time; time.sleep(60)"])
    assert os.getpgid(child.pid) == child.pid != os.getpgrp()
    children.end([child], grace_s=5)

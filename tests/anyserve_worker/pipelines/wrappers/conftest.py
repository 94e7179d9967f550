"""Undoes what loading a wrapper changes in the process."""

import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest


@pytest.fixture(autouse=True)
def _restored_process() -> Iterator[None]:
    modules, path = set(sys.modules), list(sys.path)
    start, submit, hook = threading.Thread.start, ThreadPoolExecutor.submit, threading.excepthook
    yield
    for name in set(sys.modules) - modules:
        del sys.modules[name]
    sys.path[:] = path
    threading.Thread.start = start  # type: ignore[method-assign]
    ThreadPoolExecutor.submit = submit  # type: ignore[method-assign]
    threading.excepthook = hook

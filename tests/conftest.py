"""Makes Hypothesis try the same examples in every run; `--hypothesis-profile=explore` tries more, `few` fewer.

Collects garbage after each file, so that a warning about what a test left open names a test of that file.
"""

import gc
import re
from collections.abc import Iterator

import pytest
from hypothesis import settings

collect_ignore = ["browser", "foreign"]
"""Need a browser and other servers: `make test-browser` and `make test-foreign` name the folders."""

settings.register_profile("same", deadline=None, derandomize=True, database=None)
settings.register_profile("few", settings.get_profile("same"), max_examples=10)
settings.register_profile("explore", deadline=None, max_examples=2000, database=None)
settings.load_profile("same")

LONGEST_ID = 40  # characters


def pytest_make_parametrize_id(val: object) -> str | None:
    """Returns a readable id for a long text or one with control characters; None leaves the id to pytest."""
    if isinstance(val, bytes):
        val = val.decode("utf-8", "replace")
    if not isinstance(val, str) or (len(val) <= LONGEST_ID and val.isprintable()):
        return None
    text = " ".join(re.findall(r"[\x21-\x7e]+", val))
    return text if len(text) <= LONGEST_ID else f"{text[: LONGEST_ID - 3]}..."


def pytest_collection_finish() -> None:
    """Excludes the collected tests from garbage collection, which would take a second each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def _garbage() -> Iterator[None]:
    yield
    gc.collect()

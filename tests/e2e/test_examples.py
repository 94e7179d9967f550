"""The programs of examples/ with the whole pair. `python -m tests.ops.ai_sdk` runs the one in JavaScript."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e import servers
from tests.e2e.chats import EXAMPLES, check_that_the_server_keeps_the_chat
from tests.e2e.conftest import SMOLLM2


@pytest.fixture(scope="module")
def url(worker_address: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    store = tmp_path_factory.mktemp("store") / "store.db"
    with servers.sidecar(worker_address, "--store", f"sqlite:///{store}") as (_, url):
        yield url


@pytest.mark.parametrize(
    ("program", "options"),
    [("openai_sdk.py", ()), ("openai_sdk.py", ("--conversation",)), ("langchain_chat.py", ())],
    ids=["openai", "openai-conversation", "langchain"],
)
def test_the_server_keeps_the_chat(url: str, program: str, options: tuple[str, ...]) -> None:
    command = [sys.executable, str(EXAMPLES / program), "--model", SMOLLM2]
    check_that_the_server_keeps_the_chat(command, url, *options)


def test_the_readme_lists_every_example() -> None:
    for folder, names in {
        EXAMPLES.parent: [path.name for path in EXAMPLES.parent.iterdir() if path.name != "README.md"],
        EXAMPLES: [path.name for path in EXAMPLES.iterdir() if path.name != "README.md"],
    }.items():
        readme = Path(folder, "README.md").read_text()
        assert all(f"]({name}" in readme for name in names), folder

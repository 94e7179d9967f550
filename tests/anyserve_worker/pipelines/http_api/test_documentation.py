"""docs/foreign_apis.md describes what there is."""

import re
import tomllib
from pathlib import Path

from msgspec.structs import fields

from anyserve_worker.pipelines.core.pipeline import Folder
from anyserve_worker.pipelines.http_api.mappings import BUILTIN, builtin_names, read_api
from anyserve_worker.pipelines.http_api.pipeline import read_folder
from anyserve_worker.pipelines.http_api.requests import WITHOUT_EFFECT
from anyserve_worker.pipelines.http_api.schema import Answer, Calls, Counts, EndOfStream, Errors, FinishReason, Messages
from anyserve_worker.pipelines.upstream.settings import Timeouts, UpstreamSettings, read_settings

TEXT = Path("docs/foreign_apis.md").read_text()
BLOCKS = [tomllib.loads(block) for block in re.findall(r"```toml\n(.*?)```", TEXT, re.DOTALL)]


def test_the_table_has_all_mappings() -> None:
    assert sorted(re.findall(r"^\| `(\w+)` \| .*\|.*\|.*\|.*\|$", TEXT, re.MULTILINE)) == builtin_names()


def test_the_table_has_the_variables_of_keys() -> None:
    for name in builtin_names():
        key = tomllib.loads((BUILTIN / f"{name}.toml").read_text()).get("key", {}).get("env")
        row = next(line for line in TEXT.splitlines() if line.startswith(f"| `{name}` |"))
        assert f"| `{key}` |" in row if key else "| – |" in row


def test_the_examples_are_valid() -> None:
    openai, http, mapping = BLOCKS
    read_settings(Folder("gpt", Path("gpt"), openai["openai"]), "openai", UpstreamSettings)
    _, api = read_folder(Folder("llama", Path("llama"), http["http"]))
    assert api.mapping.description == "Ollama"
    assert mapping["request"]["body"]["params"]["temp"] == "{temperature}"
    read_api("", None, mapping)


def test_all_keys_are_described() -> None:
    settings = {field.encode_name for field in fields(UpstreamSettings)} - {"timeouts"}
    timeouts = {f"timeouts.{field.encode_name}" for field in fields(Timeouts)}
    mapping = {
        field.encode_name
        for struct in (Answer, Calls, Counts, EndOfStream, Errors, FinishReason, Messages)
        for field in fields(struct)
    }
    for key in (*settings, *timeouts, *mapping, *WITHOUT_EFFECT - {"stream_options"}):
        assert re.search(rf"`{re.escape(key)}[`:]", TEXT), key
